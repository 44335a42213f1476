"""Samples the same tokens of every slot from a features store: unequal grids are resampled, missing ones left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.maths.sampled_tokens import Index, SampledTokens, SlotRows, choose_tokens
from aligncut_cli.maths.sampling import stable_hash
from aligncut_cli.maths.token_matching import GridMatch, average_matched, choose_reference_grid, match_grid
from aligncut_cli.store.kinds.features import Features
from aligncut_cli.store.nodes import ModelAxes, image_slices
from aligncut_cli.store.phases import load_ahead


class TokenSampler:
    """Draws tokens of some images, each the same place of the same photo in every slot.

    grid : (h, w) of the reference; positions count its patches row by row after 0, the class token
    kept : (image, token) of a store of sampled tokens, which then are all positions there are; else None
    """

    def __init__(self, features: Features, *, seed: int) -> None:
        self.features, self.seed = features, seed
        self.models = features.axes.models
        self.grid = choose_reference_grid([model.grid for model in self.models for _ in model.layers])
        self.kept = self._require_kept()

    def _require_kept(self) -> NDArray[np.int32] | None:
        """Return which tokens a store of sampled tokens has, the same in all models, or None."""
        kept = [self.features.kept_tokens(model.name) for model in self.models]
        first = kept[0]
        if all(tokens is None for tokens in kept):
            return None
        alike = all(first is not None and tokens is not None and np.array_equal(first, tokens) for tokens in kept)
        if not alike or any(model.grid != self.grid or not model.class_token for model in self.models):
            raise BadInput(
                f"{self.features.store.path} holds sampled tokens that are not the same in all models",
                do="Extract again without --sample-tokens, or models of one grid that have a class token.",
            )
        return first

    @property
    def n_positions(self) -> int:
        """Return class token and patches of the reference grid."""
        return 1 + self.grid[0] * self.grid[1]

    def draw(self, images: Index, count: int, purpose: str, console: Console) -> SampledTokens:
        """Read about `count` tokens of some images in every slot; seed, purpose and image ids decide which.

        images : (n,) positions in the store, ascending
        """
        keys = [stable_hash(self.seed, purpose, self.features.ids[image]) for image in images]
        chosen, places = choose_tokens(np.array(keys, dtype=np.uint64), self._places_per_image(), count, seed=self.seed)
        rows = images[chosen]
        positions = places if self.kept is None else self.kept[rows, places].astype(np.int64)
        slots: list[SlotRows] = []
        with console.progress(f"tokens to {purpose}", len(self.models), unit="models") as progress:
            for model in self.models:
                slots += self._read_model(model, rows, places if self.kept is not None else positions)
                progress.advance(detail=model.name)
        return SampledTokens(tuple(slots), rows, positions)

    def _places_per_image(self) -> int:
        return self.n_positions if self.kept is None else self.kept.shape[1]

    def _read_model(self, model: ModelAxes, images: Index, places: Index) -> list[SlotRows]:
        """Return the rows of every layer; places are positions, or token numbers in a store of sampled tokens."""
        match = match_grid(model.grid, self.grid)
        has = np.ones(len(places), np.bool_) if model.class_token else places > 0
        images, places = images[has], places[has]
        layers, width = len(model.layers), self.features.width(model.name)
        values = np.empty((layers, len(places), width), dtype=np.float16)
        wanted = []
        for block in image_slices(model.n_images, self.features.images_per_chunk[model.name]):
            low, high = np.searchsorted(images, [block.start, block.stop])
            if high > low:
                wanted.append((block, slice(int(low), int(high))))

        def load(item: tuple[slice, slice]) -> NDArray[np.float16]:
            return self.features.read_tokens(model.name, item[0])

        for (block, part), tokens in load_ahead(wanted, load):
            local = images[part] - block.start
            values[:, part] = self._take(model, match, tokens, local, places[part])
        if not np.isfinite(values).all():
            raise BadInput(f"{self.features.store.path}: tokens of {model.name} are not finite", do="Extract again.")
        known = None if has.all() else np.flatnonzero(has)
        return [SlotRows(rows, known) for rows in values]

    def _take(
        self, model: ModelAxes, match: GridMatch, tokens: NDArray[np.float16], images: Index, places: Index
    ) -> NDArray[np.floating]:
        """Return (layer, n, channel) of a block's tokens at some places of the reference grid."""
        if self.kept is not None:
            return tokens[:, images, places]
        first = int(model.class_token)
        if match.is_identity:
            return tokens[:, images, places - 1 + first]
        out = np.empty((len(tokens), len(places), tokens.shape[3]), np.float32)
        is_class = places == 0
        out[:, is_class] = tokens[:, images[is_class], 0]
        patch = places[~is_class] - 1
        around = tokens[:, images[~is_class, None], match.index[patch] + first]
        out[:, ~is_class] = average_matched(around, match.weight[patch])
        return out


def slot_keys(models: Sequence[ModelAxes], *, seed: int) -> list[int]:
    """Return a key per slot that depends on its names alone, for `SampledTokens.shuffle_images`."""
    return [int(stable_hash(seed, model.name, layer)) for model in models for layer in model.layers]
