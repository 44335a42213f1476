"""Passes over a slot's patches: each concept's members are counted, their features added up, the nearest patches found.

Slots do not need each other; what they give is added up in their order. Memory is bounded: three blocks of a slot at a
time, and for each concept a matrix of channels by channels, from which follow mean and deviation of any voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class SlotMembers:
    """What a slot gives to each concept.

    counts   : (concept,) members
    sums     : (concept, channel) of the members' features as stored; no channels where no features are read
    distance : (concept, rank) squared, of the patches nearest to each centre, each from another image
    image    : (concept, rank) where these are, -1 where there are fewer images
    token    : (concept, rank) and which patch
    """

    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    distance: NDArray[np.float64]
    image: NDArray[np.int64]
    token: NDArray[np.int64]


class Members:
    """Adds up the members of each slot, which are kept under its number until all slots are there.

    space     : features of the slots' names are read from it; None to count members and find patches only
    slots     : on the map
    n_nearest : patches kept of each slot and concept
    """

    def __init__(
        self,
        source: Tsne,
        space: FeatureSpace | None,
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
        of_features = LEAST_IMAGES if self.space is None else self.space.images_per_read()[model]
        return min(self.source.images_per_chunk[model], max(of_features, LEAST_IMAGES))

    def add(self, index: int, centres: Centres) -> None:
        """Add up the members of one slot, and keep its patches nearest to each centre."""
        slot, axes = self.slots[index], self.source.axes
        n_concepts = len(centres.places)
        moments = None if self.space is None else self._no_moments(n_concepts)
        nearest, counts = NearestTokens(n_concepts, self.n_nearest), np.zeros(n_concepts, np.int64)
        width = 0 if self.space is None else self.space.n_channels_stored(slot.model)
        sums = np.zeros((n_concepts, width))
        n_images, per_block = axes[slot.model].n_images, self._images_per_block(slot.model)
        blocks = [Block(slot, images) for images in image_slices(n_images, per_block)]
        with self.console.progress(f"members {slot}", axes.n_group_nodes([slot]), unit="nodes") as progress:
            for block, (coords, features) in load_ahead(blocks, self.load):
                distance = measure_squared_distances(coords, centres.places)
                nearest.add(distance, first_image=block.images.start)
                members = (distance <= centres.radius**2).reshape(-1, n_concepts)
                counts += members.sum(axis=0)
                chosen = members.any(axis=1)
                if self.space is not None and moments is not None and features is not None and chosen.any():
                    rows = features.reshape(-1, width)[chosen]
                    sums += members[chosen].T.astype(np.float64) @ rows.astype(np.float64)
                    moments.add(self.space.map_rows(rows, slot).cpu().numpy(), members[chosen])
                progress.advance(axes.n_block_nodes(block))
        if moments is not None:
            np.savez(self._moments(index), counts=moments.counts, means=moments.means, scatter=moments.scatter)
        found = SlotMembers(counts, sums, nearest.distance, nearest.image, nearest.token)
        np.savez(self._slot(index), **found.__dict__)

    def load(self, block: Block) -> tuple[NDArray[np.float32], NDArray[np.float16] | None]:
        """Return places (image, patch, dim) and features (image, patch, channel) of a block of the map."""
        slot, images = block.slot, block.images
        coords = self.source.patches(slot.model, images, layers=slot.position)
        if self.space is None:
            return coords, None
        return coords, load_patches(self.space, Block(self.space.axes.slot(str(slot)), images))

    def _no_moments(self, n_concepts: int) -> ConceptMoments:
        return ConceptMoments(n_concepts, 0 if self.space is None else self.space.width(comparable=True))

    def add_moments(self, n_concepts: int) -> ConceptMoments:
        """Return the moments over all slots, added in their order, so that they do not depend on who found them."""
        total = self._no_moments(n_concepts)
        for index in range(len(self.slots)):
            own = self._no_moments(n_concepts)
            with np.load(self._moments(index)) as saved:
                own.counts, own.means, own.scatter = saved["counts"], saved["means"], saved["scatter"]
            total.merge(own)
        return total

    def load_slots(self) -> list[SlotMembers]:
        """Return what every slot gives, in their order."""
        found = []
        for index in range(len(self.slots)):
            with np.load(self._slot(index)) as saved:
                values: dict[str, Any] = {name: saved[name] for name in SlotMembers.__dataclass_fields__}
            found.append(SlotMembers(**values))
        return found

    def _moments(self, index: int) -> Path:
        return self.folder / f"members-{index}.npz"

    def _slot(self, index: int) -> Path:
        return self.folder / f"slot-{index}.npz"
