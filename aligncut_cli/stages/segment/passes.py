"""What both ways of segmenting share: blocks of images of every store, pairs of masks, and sums kept per block.

Memory is bounded by construction: a pass holds the eigenvectors of three blocks of images, the masks of three images,
and sums whose size depends on layers, classes and thresholds, not on the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.masks import Mask, MaskSet
from aligncut_cli.maths.grid import resize_mask
from aligncut_cli.maths.iou import score_confusion
from aligncut_cli.maths.segmentation import count_grid_rounding, pick_other_images
from aligncut_cli.params import SegmentParams
from aligncut_cli.stages.segment.runs import Run
from aligncut_cli.store.kinds.base import Array
from aligncut_cli.store.kinds.eigs import Eigs
from aligncut_cli.store.kinds.segments import ROUNDING
from aligncut_cli.store.nodes import image_slices, require_tokens
from aligncut_cli.store.phases import Phase, load_ahead
from aligncut_cli.store.write import Writer

KINDS = ("masks", "shuffled")
"""What images are scored with: their own masks, and as a control those of other images."""

Floats = NDArray[np.float64]
Rows = Mapping[str, NDArray[np.float32]]
"""For each model (layer, image, patch, eig) of a block, without the class token."""
ByModel = Mapping[str, Floats]


@dataclass(frozen=True)
class Place:
    """A block: some images of one eigs store, which is given by its position."""

    run: int
    images: slice

    @property
    def n_images(self) -> int:
        """Return how many images these are."""
        return int(self.images.stop - self.images.start)


class Layout:
    """Eigs stores that are scored side by side, cut into blocks of whole chunks of images.

    names     : what the stores are called
    stores    : labels are kept of the first, scores of all
    axes      : node axes, alike in all stores
    images    : `images/` of the first, which all have
    available : eigenvectors that every store has
    n_eig     : leading eigenvectors that are used, C
    per_block : images of a block, at most
    blocks    : images of each block
    places    : the blocks of every store in turn
    """

    def __init__(self, runs: Sequence[Run], *, n_eig: int | None, usual: int | None) -> None:
        """Lay out.

        n_eig : eigenvectors asked for; without, `usual` or as many as there are, and without that all
        """
        self.names = [run.name for run in runs]
        self.stores = [Eigs(run.store) for run in runs]
        self.first = self.stores[0]
        self.axes = self.first.axes
        self.images = self.first.images()
        self.n_images = len(self.images["id"])
        self.available = min(store.n_eig for store in self.stores)
        self.n_eig = self._require_eigenvectors(n_eig) if n_eig else min(usual or self.available, self.available)
        for store in self.stores[1:]:
            self._require_alike(store)
        require_tokens(self.axes, self.first.store.path)
        self.per_block = max(self.first.images_per_chunk.values())
        self.blocks = list(image_slices(self.n_images, self.per_block))
        self.places = [Place(run, images) for run in range(len(runs)) for images in self.blocks]

    def _require_eigenvectors(self, wanted: int) -> int:
        if wanted > self.available:
            raise BadInput(
                f"--n-eig {wanted}: the eigs store has {self.available} eigenvectors",
                do="Make it with a larger --n-eig.",
            )
        return wanted

    def _require_alike(self, other: Eigs) -> None:
        """Require the same models, layers and images of every store, so that scores stand side by side."""
        path, first = other.store.path, self.first.store.path
        described = [[(m.name, m.layers, m.grid) for m in axes.models] for axes in (other.axes, self.axes)]
        if described[0] != described[1]:
            raise BadInput(
                f"{path} has other models or layers than {first}",
                do="Compare eigs stores of the same models and layers, or score each alone.",
            )
        if other.ids != self.first.ids:
            raise BadInput(f"{path} has other images than {first}", do="Score each alone.")

    def phase(
        self, name: str, compute: Callable[[int, Place, Rows], None], *, first_only: bool = False
    ) -> Phase[Place]:
        """Return a pass over the eigenvectors of every block of all stores, or of the first store only."""
        return Phase(
            name,
            self.places[: len(self.blocks)] if first_only else self.places,
            compute,
            self.load,
            unit="images",
            size=lambda place: place.n_images,
            detail=lambda place: self.names[place.run],
            parallel=True,
        )

    def load(self, place: Place) -> Rows:
        """Read the leading eigenvectors of a block's patches."""
        store = self.stores[place.run]
        return {name: store.patches(name, place.images)[..., : self.n_eig] for name in self.axes.names}


class Truth:
    """Masks of all images, and for the control those of other images.

    classes        : names, the background first
    has_background : whether the first is one
    """

    def __init__(self, masks: MaskSet, images: Mapping[str, NDArray[Any]], *, seed: int) -> None:
        self._masks = masks
        self._ids = [str(name) for name in images["id"]]
        self._sizes = [(int(h), int(w)) for h, w in zip(images["height"], images["width"], strict=True)]
        self._others = pick_other_images(len(self._ids), seed=seed)
        self.classes = list(masks.classes)
        self.has_background = masks.has_background
        masks.require(self._ids)

    def pairs(self, images: slice) -> Iterator[tuple[Mask, Mask]]:
        """Give for each of some images its mask and another image's, stretched to its size; reads ahead."""
        return (pair for _, pair in load_ahead(range(images.start, images.stop), self._read_pair))

    def _read_pair(self, image: int) -> tuple[Mask, Mask]:
        other = resize_mask(self._read(int(self._others[image])), self._sizes[image])
        return self._read(image), other.astype(np.int16, copy=False)

    def _read(self, image: int) -> Mask:
        return self._masks.read(self._ids[image], size=self._sizes[image])


class Sums:
    """Arrays of sums with a leading axis over all places, one chunk each, so that an interrupted pass goes on."""

    def __init__(self, folder: Path, layout: Layout, *, n_classes: int) -> None:
        self.scratch, self._layout = Writer(folder), layout
        self._sizes = {
            "block": len(layout.places),
            "kind": len(KINDS),
            "class": n_classes,
            "rounded": n_classes,
            "eig": layout.n_eig,
        }

    def create(self, scratch: Any, arrays: Iterable[Array], **sizes: int) -> None:
        """Create arrays of every model.

        sizes : of axes that are a way's own
        """
        wanted = tuple(arrays)
        for model in self._layout.axes.models:
            for array in wanted:
                array.create(scratch, {**self._sizes, "layer": len(model.layers), **sizes}, model.name)

    def write(self, array: Array, model: str, index: int, values: NDArray[Any]) -> None:
        """Write the sums of one place, given by its position."""
        self.scratch.write(array.at(model), index, values)

    def join(self, array: Array, model: str, run: int) -> NDArray[Any]:
        """Put the blocks of one store after each other, along their first axis; the last may be padded."""
        count = len(self._layout.blocks)
        parts = [self.scratch.read(array.at(model), index) for index in range(run * count, (run + 1) * count)]
        return np.concatenate(parts)

    def total(self, array: Array, model: str, run: int) -> NDArray[Any]:
        """Add up the blocks of one store, in order, one at a time."""
        count = len(self._layout.blocks)
        total: NDArray[Any] = self.scratch.read(array.at(model), run * count)
        for index in range(run * count + 1, (run + 1) * count):
            total = total + self.scratch.read(array.at(model), index)
        return total


@dataclass(frozen=True)
class Setting:
    """What a way of segmenting works with.

    truth     : None where segments are made without masks
    sums      : of the passes
    writer    : the store under construction
    n_threads : for what runs in threads of one block
    """

    layout: Layout
    truth: Truth | None
    sums: Sums
    writer: Writer
    params: SegmentParams
    n_threads: int
    console: Console

    @property
    def n_classes(self) -> int:
        """Return the number of classes, background included; 0 without masks."""
        return 0 if self.truth is None else len(self.truth.classes)


class Rounding:
    """Masks of one block against themselves rounded to each model's grid: what labels of whole patches can reach."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._models = setting, setting.layout.axes.models
        square = (setting.n_classes, setting.n_classes)
        self._counts = {model.name: np.zeros(square, np.int64) for model in self._models}

    def add(self, mask: Mask) -> None:
        """Count the pixels of one mask, (h, w)."""
        for model in self._models:
            self._counts[model.name] += count_grid_rounding(
                mask, model.grid, n_classes=self._setting.n_classes, resolution=self._setting.params.resolution
            )

    def write(self, index: int) -> None:
        """Write the counts of the place at a position."""
        for name, counts in self._counts.items():
            self._setting.sums.write(ROUNDING, name, index, counts)


def score_rounding(setting: Setting, run: int) -> ByModel:
    """Return the mIoU of the rounded masks, (layer,) of each model; it is the same for every layer."""
    return {
        model.name: np.full(len(model.layers), float(score_confusion(setting.sums.total(ROUNDING, model.name, run))[0]))
        for model in setting.layout.axes.models
    }
