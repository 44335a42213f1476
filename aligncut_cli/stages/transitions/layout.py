"""What `transitions` counts: pairs of slots, kinds of tokens, blocks of images, and the tokens that are followed."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.transitions import TOKEN_KINDS
from aligncut_cli.params import TransitionsParams
from aligncut_cli.store.kinds.base import PER_BLOCK
from aligncut_cli.store.kinds.tsne import Tsne
from aligncut_cli.store.nodes import ModelAxes, Slot, TokenPlace, image_slices, parse_token, require_tokens


@dataclass(frozen=True)
class Pair:
    """Two slots, and where their counts go: the root for --from and --to, else a model's step."""

    before: Slot
    after: Slot
    step: int | None = None

    def __str__(self) -> str:
        return f"{self.before} to {self.after}"


class Layout:
    """What is counted.

    token_kinds : all, and where there are masks foreground and background
    pairs       : --from and --to first where they are given, then the steps of every model in `along`
    slots       : those of the pairs, each once
    followed    : models whose tokens are followed, and in `places` which tokens of each
    per_block   : images of one chunk, `blocks` are these images
    """

    def __init__(self, source: Tsne, params: TransitionsParams, *, masked: bool) -> None:
        self.axes = source.axes
        self.along = list(dict.fromkeys(params.along))
        self.token_kinds = TOKEN_KINDS if masked else TOKEN_KINDS[:1]
        self.pairs = list_pairs(source, params)
        self.slots = list(dict.fromkeys(slot for pair in self.pairs for slot in (pair.before, pair.after)))
        require_tokens(self.axes, source.store.path)
        first = [self.pairs[0].before.model] if self.has_pair else []
        self.followed = list(dict.fromkeys([*first, *self.along]))
        self.places = {name: choose_tokens(self.axes[name], source.ids, params) for name in self.followed}
        self.n_images, self.n_dims = len(source.ids), source.n_dims
        self.n_concepts = params.concepts
        self.per_block = max(source.images_per_chunk.values())
        self.blocks = list(image_slices(self.n_images, self.per_block))

    @property
    def has_pair(self) -> bool:
        """Return whether --from and --to were given."""
        return self.pairs[0].step is None

    @property
    def sizes(self) -> dict[str, int]:
        """Return the lengths of axes that do not differ from model to model, for `Array.create`."""
        k = self.n_concepts
        return {"concept": k, "from": k, "to": k, "dim": self.n_dims, "mask": len(self.token_kinds)}

    def model_sizes(self, name: str) -> dict[str, int]:
        """Return the lengths of all axes of a model's arrays."""
        model = self.axes[name]
        n_layers, n_followed = len(model.layers), len(self.places.get(name, []))
        own: dict[str, int] = {"layer": n_layers, "step": n_layers - 1, "followed": n_followed, "image_row_column": 3}
        own |= {"image": model.n_images, "patch": model.grid[0] * model.grid[1], PER_BLOCK: self.per_block}
        return self.sizes | own


def list_pairs(source: Tsne, params: TransitionsParams) -> list[Pair]:
    """Return the pairs of slots to count: that of --from and --to, then the steps along each model.

    raises : BadInput where a model has a single layer, UsageError where two grids do not correspond
    """
    axes = source.axes
    pairs = []
    if params.from_slot is not None and params.to_slot is not None:
        before, after = axes.slot(params.from_slot), axes.slot(params.to_slot)
        if axes[before.model].grid != axes[after.model].grid:
            raise UsageError(f"{before} and {after} have different grids, so their tokens do not correspond")
        pairs.append(Pair(before, after))
    for name in dict.fromkeys(params.along):
        slots = [slot for slot in axes.slots if slot.model == axes[name].name]
        if len(slots) < 2:
            raise BadInput(f"{name} has a single layer in {source.store.path}", do="Extract more of its layers.")
        pairs += [Pair(a, b, step) for step, (a, b) in enumerate(itertools.pairwise(slots))]
    return pairs


def choose_tokens(model: ModelAxes, ids: list[str], params: TransitionsParams) -> list[TokenPlace]:
    """Return the tokens to follow: those named, then random ones, the same for all models of one grid."""
    named = [parse_token(text, ids, model) for text in params.token]
    rng = np.random.default_rng([params.seed, 3])
    count = min(params.random_tokens, model.n_images * model.grid[0] * model.grid[1])
    drawn = []
    for _ in range(count):
        image, row, column = (int(rng.integers(n)) for n in (model.n_images, *model.grid))
        drawn.append(TokenPlace(image, row, column))
    return list(dict.fromkeys([*named, *drawn]))
