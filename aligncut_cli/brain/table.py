"""A table of responses: images x voxels on disk, with the names of its rows, ROIs and noise ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain.rows import Block, average_rows, read_rows

Float = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Responses:
    """Responses of every voxel to every image, read from disk only where asked for.

    blocks        : tables (rows, voxels of this block) side by side, e.g. the left and right hemisphere
    kept          : (voxels,) columns of the blocks that are used; fewer than all after --drop-nan-voxels
    ids           : one name per image, or None where row k belongs to the k-th image by some order
    rois          : name -> (voxels,) True where the voxel belongs to the ROI
    noise_ceiling : (voxels,) explainable share of variance in [0, 1], or None
    record        : what was read, for the store: source, files, counts, what was merged or dropped
    image_of_row  : (rows,) image that a row belongs to, -1 where it is not used; None where every row is one image
    usable        : (images,) False where --drop-nan-images leaves an image out; None where all are used
    """

    blocks: tuple[Block, ...]
    kept: Index
    ids: list[str] | None
    rois: Mapping[str, Bool]
    noise_ceiling: Float | None
    record: Mapping[str, Any] = field(default_factory=dict)
    image_of_row: Index | None = None
    usable: Bool | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(images, voxels)."""
        n_images = len(self.ids) if self.ids is not None else self.blocks[0].shape[0]
        return n_images, len(self.kept)

    def read(self, rows: npt.ArrayLike) -> Float:
        """Read the given images of all voxels, repeats averaged.

        rows    : (b,) indices of images, any order
        returns : (b, voxels) float32
        """
        index = np.asarray(rows, dtype=np.int64)
        if self.image_of_row is None:
            parts = [read_rows(block, index) for block in self.blocks]
        else:
            parts = [average_rows(block, index, self.image_of_row) for block in self.blocks]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return values if len(self.kept) == values.shape[1] else values[:, self.kept]

    def read_half(self, rows: npt.ArrayLike, half_of_row: Index, half: int) -> Float:
        """Read the given images, averaged over one half of their repeats.

        rows        : (b,) indices of images that have rows in that half
        half_of_row : (rows,) the half that each row is in
        returns     : (b, voxels)
        """
        if self.image_of_row is None:
            raise ValueError("these responses have no repeats")
        own = np.where(half_of_row == half, self.image_of_row, -1)
        parts = [average_rows(block, np.asarray(rows, dtype=np.int64), own) for block in self.blocks]
        return np.concatenate(parts, axis=1)[:, self.kept]

    @property
    def values(self) -> Float:
        """All responses at once, (images, voxels) float32."""
        return self.read(np.arange(self.shape[0]))
