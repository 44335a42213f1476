"""Features of the images that take part, one vector per image, read in blocks of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.finite import all_finite
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.kinds.features import Features
from aligncut_cli.store.nodes import image_slices
from aligncut_cli.store.phases import load_ahead

Floats = NDArray[np.float32]
Index = NDArray[np.int64]

IMAGES_PER_BLOCK = 256


class FeatureBlocks(Protocol):
    """Features that are read block by block."""

    @property
    def widths(self) -> Sequence[int]:
        """Return the channels of the slots that stand side by side."""
        ...

    def iterate(self, wanted: Index) -> Iterator[tuple[Index, Floats]]:
        """Yield (b,) of the wanted images, ascending, and their features (b, D)."""
        ...


class StoredFeatures:
    """Means over tokens of every slot of a features store side by side, or their average in the universal space.

    rows      : (images,) ascending, where each image that takes part lies in the store
    alignment : maps the means first; slots are then averaged, as in the bracket of Eq. 2
    fit       : which of its fits
    """

    def __init__(self, features: Features, rows: Index, *, alignment: Alignment | None, fit: int = 0) -> None:
        self.features, self.rows = features, rows
        self.models = features.axes.models
        self._maps: dict[str, list[Floats]] | None = None
        for model in self.models:
            if not features.has_pooled(model.name) and features.kept_tokens(model.name) is not None:
                raise BadInput(
                    f"{features.store.path} has sampled tokens only, and the means need all",
                    do="Extract with --save both or --save pooled.",
                )
        if alignment is None:
            self._widths = [self._width(model.name) for model in self.models for _ in model.layers]
            return
        self._maps = {}
        for model in self.models:
            if model.name not in alignment.store.record["models"] or alignment.layers(model.name) != list(model.layers):
                raise BadInput(
                    f"{alignment.store.path} has no maps of {model.name}'s layers", do="Align these features first."
                )
            count = range(len(model.layers))
            self._maps[model.name] = [alignment.read_weight(model.name, layer, fit=fit) for layer in count]
        self._widths = [int(self._maps[self.models[0].name][0].shape[1])]

    @property
    def widths(self) -> Sequence[int]:
        """Return the channels of the slots that stand side by side; one entry where they are averaged."""
        return self._widths

    def _width(self, model: str) -> int:
        if self.features.has_pooled(model):
            return int(self.features.read_pooled(model, slice(0, 1)).shape[2])
        return self.features.width(model)

    def _slices(self) -> list[slice]:
        model = self.models[0]
        pooled = self.features.has_pooled(model.name)
        chunk = self.features.pooled_per_chunk(model.name) if pooled else self.features.images_per_chunk[model.name]
        step = chunk * max(1, IMAGES_PER_BLOCK // chunk) if pooled else chunk
        return list(image_slices(model.n_images, step))

    def iterate(self, wanted: Index) -> Iterator[tuple[Index, Floats]]:
        """Yield (b,) of the wanted images, ascending, and their features (b, D)."""
        places = self.rows[wanted]
        cuts = [(images, *np.searchsorted(places, [images.start, images.stop])) for images in self._slices()]
        parts = [(images, slice(int(low), int(high))) for images, low, high in cuts if high > low]
        for (images, part), values in load_ahead(parts, lambda item: self._read(item[0])):
            yield wanted[part], values[places[part] - images.start]

    def _read(self, images: slice) -> Floats:
        """Return (image, D) of consecutive images of the store."""
        parts = []
        for model in self.models:
            if self.features.has_pooled(model.name):
                means = self.features.read_pooled(model.name, images)
            else:
                means = self.features.read_tokens(model.name, images).mean(2, dtype=np.float32)
            if not all_finite(means):
                raise BadInput(f"{self.features.store.path}: means of {model.name} are not finite", do="Extract again.")
            parts += [rows if self._maps is None else rows @ self._maps[model.name][i] for i, rows in enumerate(means)]
        if self._maps is not None:
            return np.asarray(sum(parts) / len(parts), dtype=np.float32)
        return np.concatenate(parts, axis=1)


class HeldFeatures:
    """Features that are in memory, (images, D)."""

    def __init__(self, values: Floats) -> None:
        self.values = values

    @property
    def widths(self) -> Sequence[int]:
        """Return the one width."""
        return [self.values.shape[1]]

    def iterate(self, wanted: Index) -> Iterator[tuple[Index, Floats]]:
        """Yield (b,) of the wanted images, and their features (b, D)."""
        for start in range(0, len(wanted), IMAGES_PER_BLOCK):
            part = wanted[start : start + IMAGES_PER_BLOCK]
            yield part, self.values[part]
