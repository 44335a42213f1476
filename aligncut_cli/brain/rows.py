"""Rows of responses that lie on disk in several files, read in slabs of bounded memory when they are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

SLAB_BYTES = 1 << 28

Index = npt.NDArray[np.int64]
Float = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LazyRows:
    """A table that is read by ranges of rows.

    shape  : (rows, voxels)
    dtype  : of the values as they are stored
    fetch  : reads rows start to stop, (stop - start, voxels)
    volume : whether the voxels are those of a box around the brain, of which many lie outside
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    fetch: Callable[[int, int], npt.NDArray[Any]]
    volume: bool = False


Block = npt.NDArray[Any] | LazyRows


def flatten_rows(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (rows, all other axes in one)."""
    return values.reshape(len(values), -1)


def stack_rows(blocks: Sequence[Block]) -> Block:
    """Put tables of the same voxels under each other, as sessions follow each other."""
    if len(blocks) == 1:
        return blocks[0]
    starts = [0, *itertools.accumulate(block.shape[0] for block in blocks)]

    def fetch(start: int, stop: int) -> npt.NDArray[Any]:
        parts = [
            read_range(block, max(start - first, 0), min(stop - first, block.shape[0]))
            for first, block in zip(starts, blocks, strict=False)
            if first < stop and start < first + block.shape[0]
        ]
        return np.concatenate(parts)

    volume = all(is_volume(block) for block in blocks)
    return LazyRows((starts[-1], blocks[0].shape[1]), np.dtype(np.float32), fetch, volume)


def is_volume(block: Block) -> bool:
    """Return whether voxels outside the brain may be among those of a block."""
    return isinstance(block, LazyRows) and block.volume


def read_range(block: Block, start: int, stop: int) -> npt.NDArray[Any]:
    """Read consecutive rows, (stop - start, voxels)."""
    return block.fetch(start, stop) if isinstance(block, LazyRows) else block[start:stop]


def read_slabs(block: Block, rows: tuple[int, int] | None = None) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (first row, values) of all rows, or of a range of them, in slabs of at most SLAB_BYTES."""
    start, stop = rows or (0, block.shape[0])
    step = max(1, SLAB_BYTES // (8 * block.shape[1]))
    for first in range(start, stop, step):
        yield first, read_range(block, first, min(first + step, stop))


def read_rows(block: Block, rows: Index) -> Float:
    """Read some rows in any order, (rows, voxels) float32; every slab is read once."""
    if not isinstance(block, LazyRows):
        return np.asarray(block[rows], dtype=np.float32)
    out = np.empty((len(rows), block.shape[1]), dtype=np.float32)
    if len(rows):
        for first, values in read_slabs(block, (int(rows.min()), int(rows.max()) + 1)):
            inside = (rows >= first) & (rows < first + len(values))
            out[inside] = values[rows[inside] - first]
    return out


def average_rows(block: Block, rows: Index, image_of_row: Index) -> Float:
    """Average the rows of each image that is asked for; every slab is read once, and rows are added in their order.

    rows         : (b,) images
    image_of_row : (rows of the block,) the image that a row belongs to, -1 where it is not used
    returns      : (b, voxels)
    """
    images, places = np.unique(rows, return_inverse=True)
    place_of_image = np.full(int(image_of_row.max(initial=-1)) + 1, -1, dtype=np.int64)
    place_of_image[images] = np.arange(len(images))
    place = np.where(image_of_row < 0, -1, place_of_image[image_of_row])
    total = np.zeros((len(images), block.shape[1]), dtype=np.float32)
    for first, values in read_slabs(block):
        inside = place[first : first + len(values)]
        used = inside >= 0
        np.add.at(total, inside[used], values[used].astype(np.float32))
    total /= np.bincount(place[place >= 0], minlength=len(images))[:, None]
    return total[places]
