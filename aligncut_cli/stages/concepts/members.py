"""Passes over a slot's patches: the features of each concept's members are added up, and the nearest patches found.

Memory is bounded: three blocks of a slot at a time, and for each concept a matrix of channels by channels, from which
mean and deviation of any number of voxels follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.maths.concepts import ConceptMoments, NearestTokens, measure_squared_distances
from aligncut_cli.stages.patches import Centres, load_patches
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.kinds.tsne import Tsne
from aligncut_cli.store.nodes import Block, Slot, image_slices
from aligncut_cli.store.phases import load_ahead

LEAST_IMAGES = 64


class Members:
    """Adds up members slot by slot, in order; sums so far are kept after each slot, under its number.

    slots     : on the map; features of the same name are read from the space
    n_nearest : patches kept of each slot and concept
    """

    def __init__(
        self,
        source: Tsne,
        space: FeatureSpace,
        slots: Sequence[Slot],
        folder: Path,
        *,
        n_nearest: int,
        console: Console,
    ) -> None:
        self.source, self.space, self.slots, self.folder = source, space, slots, folder
        self.n_nearest, self.console = n_nearest, console

    @property
    def largest_block(self) -> int:
        """Return the most rows that are read at once."""
        axes = self.source.axes
        return max(self._images_per_block(slot.model) * axes[slot.model].n_tokens for slot in self.slots)

    def _images_per_block(self, model: str) -> int:
        return min(self.source.images_per_chunk[model], max(self.space.images_per_read()[model], LEAST_IMAGES))

    def add(self, index: int, centres: Centres) -> None:
        """Add the members of one slot to the sums of those before it, and keep its patches nearest to each centre."""
        slot, axes = self.slots[index], self.source.axes
        n_concepts = len(centres.places)
        moments = self.load_moments(index - 1, n_concepts)
        nearest = NearestTokens(n_concepts, self.n_nearest)
        n_images, per_block = axes[slot.model].n_images, self._images_per_block(slot.model)
        blocks = [Block(slot, images) for images in image_slices(n_images, per_block)]
        with self.console.progress(f"members {slot}", axes.n_group_nodes([slot]), unit="nodes") as progress:
            for block, (coords, features) in load_ahead(blocks, self.load):
                distance = measure_squared_distances(coords, centres.places)
                nearest.add(distance, first_image=block.images.start)
                members = (distance <= centres.radius**2).reshape(-1, n_concepts)
                chosen = members.any(axis=1)
                if chosen.any():
                    rows = features.reshape(-1, features.shape[-1])[chosen]
                    moments.add(self.space.map_rows(rows, slot).cpu().numpy(), members[chosen])
                progress.advance(axes.n_block_nodes(block))
        self._forget(index - 2)  # those of the slot before stay: where this one is interrupted, it begins with them
        np.savez(self._moments(index), counts=moments.counts, means=moments.means, scatter=moments.scatter)
        np.savez(self._nearest(index), distance=nearest.distance, image=nearest.image, token=nearest.token)

    def load(self, block: Block) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
        """Return places (image, patch, dim) and features (image, patch, channel) of a block of the map."""
        slot, images = block.slot, block.images
        coords = self.source.patches(slot.model, images, layers=slot.position)
        return coords, load_patches(self.space, Block(self.space.axes.slot(str(slot)), images))

    def load_moments(self, index: int, n_concepts: int) -> ConceptMoments:
        """Return the sums over all slots up to one, -1 for none."""
        moments = ConceptMoments(n_concepts, self.space.width(comparable=True))
        if index >= 0:
            with np.load(self._moments(index)) as saved:
                moments.counts, moments.means, moments.scatter = saved["counts"], saved["means"], saved["scatter"]
        return moments

    def load_nearest(self, index: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Return squared distance, image and patch of the patches of one slot nearest to each centre.

        returns : three of (concept, rank); image is -1 where there are fewer images
        """
        with np.load(self._nearest(index)) as saved:
            return saved["distance"], saved["image"], saved["token"]

    def _moments(self, index: int) -> Path:
        return self.folder / f"members-{index}.npz"

    def _nearest(self, index: int) -> Path:
        return self.folder / f"nearest-{index}.npz"

    def _forget(self, index: int) -> None:
        self._moments(index).unlink(missing_ok=True)
