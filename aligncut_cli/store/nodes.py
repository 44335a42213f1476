"""The axes of the product graph: which (model, layer, image, token) each node is, and how nodes are numbered."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput, UsageError


@dataclass(frozen=True)
class ModelAxes:
    """The node axes of one model.

    layers      : the layer numbers kept, in order
    grid        : (h, w) of the patches
    class_token : whether token 0 is the class token
    n_tokens    : class token and patches, or fewer where tokens were sampled
    attributes  : as in the store (timm, image_size, weights, ...)
    """

    name: str
    layers: tuple[int, ...]
    n_images: int
    n_tokens: int
    grid: tuple[int, int]
    class_token: bool
    attributes: Mapping[str, Any]

    @property
    def n_nodes(self) -> int:
        """Return layers x images x tokens."""
        return len(self.layers) * self.n_images * self.n_tokens

    @property
    def whole_grid(self) -> bool:
        """Return whether every patch is there, so that pictures can be made."""
        return self.n_tokens == self.grid[0] * self.grid[1] + int(self.class_token)


@dataclass(frozen=True)
class Slot:
    """One (model, layer) pair; `position` is the layer's index in the store."""

    model: str
    layer: int
    position: int

    def __str__(self) -> str:
        return f"{self.model}:{self.layer}"


@dataclass(frozen=True)
class Block:
    """Nodes that are read, computed and written together: some images of one slot."""

    slot: Slot
    images: slice

    def select(self) -> tuple[int, slice]:
        """Return the selection of this block in an array of [layer, image, ...]."""
        return self.slot.position, self.images


@dataclass(frozen=True)
class TokenPlace:
    """One patch of one image, whatever the model: written IMAGE:ROW,COL, counted from 0 on the grid of patches.

    image : position in the store
    """

    image: int
    row: int
    column: int

    def token(self, model: ModelAxes) -> int:
        """Return the token's index in a model's sequence, the class token counted."""
        return self.row * model.grid[1] + self.column + int(model.class_token)


@dataclass(frozen=True)
class NodeAxes:
    """All nodes of a graph; the flat index runs over the models in order, then C-order within a model."""

    models: tuple[ModelAxes, ...]

    def __getitem__(self, name: str) -> ModelAxes:
        for model in self.models:
            if model.name == name:
                return model
        raise UsageError(f"there is no model {name!r} here", do=f"The models are: {', '.join(self.names)}.")

    @property
    def names(self) -> list[str]:
        """Return the models' names in order."""
        return [model.name for model in self.models]

    @property
    def n_nodes(self) -> int:
        """Return the number of nodes of the product graph (M)."""
        return sum(model.n_nodes for model in self.models)

    @property
    def slots(self) -> list[Slot]:
        """Return every (model, layer), models in order."""
        return [Slot(m.name, layer, i) for m in self.models for i, layer in enumerate(m.layers)]

    def first_node(self, slot: Slot) -> int:
        """Return the flat index of a slot's first node."""
        offset = 0
        for model in self.models:
            if model.name == slot.model:
                return offset + slot.position * model.n_images * model.n_tokens
            offset += model.n_nodes
        raise KeyError(slot.model)

    def slot(self, text: str) -> Slot:
        """Read a slot written as MODEL:LAYER."""
        name, _, layer = text.rpartition(":")
        model = self[name] if name else None
        if model is None or not layer.isdigit() or int(layer) not in model.layers:
            raise UsageError(f"{text!r} is not a slot here", do=f"Write MODEL:LAYER, such as {self.slots[0]}.")
        return Slot(name, int(layer), model.layers.index(int(layer)))

    def groups(self, group: str) -> list[tuple[str, list[Slot]]]:
        """Return (name, slots) of each graph to cut: `all`, one per `model`, or one per `layer` (slot)."""
        if group == "all":
            return [("all", self.slots)]
        if group == "model":
            return [(name, [s for s in self.slots if s.model == name]) for name in self.names]
        return [(str(slot), [slot]) for slot in self.slots]

    def blocks(self, slots: Sequence[Slot], images_per_block: Mapping[str, int]) -> list[Block]:
        """Cut slots into blocks of whole chunks, in node order."""
        return [
            Block(slot, images)
            for slot in slots
            for images in image_slices(self[slot.model].n_images, images_per_block[slot.model])
        ]

    def group_blocks(
        self, groups: Sequence[tuple[str, Sequence[Slot]]], images_per_block: Mapping[str, int]
    ) -> tuple[list[Block], list[int]]:
        """Cut every group's slots into blocks, in order; returns the blocks and the group of each."""
        parts = [self.blocks(slots, images_per_block) for _, slots in groups]
        return [block for part in parts for block in part], [i for i, part in enumerate(parts) for _ in part]

    def n_group_nodes(self, slots: Sequence[Slot]) -> int:
        """Return how many nodes some slots have."""
        return sum(self[slot.model].n_images * self[slot.model].n_tokens for slot in slots)

    def n_block_nodes(self, block: Block) -> int:
        """Return how many nodes a block has."""
        n_images: int = block.images.stop - block.images.start
        return n_images * self[block.slot.model].n_tokens

    def locate(self, nodes: NDArray[np.int64], slot: Slot) -> NDArray[np.int64]:
        """Return (image, token) of those flat indices that lie in a slot, shape (n, 2); `nodes` is sorted."""
        model = self[slot.model]
        first = self.first_node(slot)
        low, high = np.searchsorted(nodes, [first, first + model.n_images * model.n_tokens])
        return np.stack(np.divmod(nodes[low:high] - first, model.n_tokens), axis=1)


def parse_token(text: str, ids: Sequence[str], model: ModelAxes) -> TokenPlace:
    """Read IMAGE:ROW,COL; IMAGE is an id, which may hold colons."""
    match = re.fullmatch(r"(.+):(\d+),(\d+)", text)
    if match is None:
        raise UsageError(f"{text!r} does not name a token", do="Write IMAGE:ROW,COL, such as cat:6,7, from 0.")
    name, row, column = match[1], int(match[2]), int(match[3])
    if name not in ids:
        near = ", ".join(list(ids)[:3])
        raise UsageError(f"{text!r}: there is no image {name!r}", do=f"The images are {near}, ...: see images/id.")
    if row >= model.grid[0] or column >= model.grid[1]:
        raise UsageError(
            f"{text!r} lies outside the {model.grid[0]} x {model.grid[1]} patches of {model.name}",
            do=f"Rows go from 0 to {model.grid[0] - 1}, columns to {model.grid[1] - 1}.",
        )
    return TokenPlace(list(ids).index(name), row, column)


def image_slices(n_images: int, per_block: int) -> Iterator[slice]:
    """Cut the image axis into consecutive slices."""
    for start in range(0, n_images, per_block):
        yield slice(start, min(start + per_block, n_images))


def images_per_chunk(bytes_per_image: int, n_images: int, *, target: int) -> int:
    """Return a power of two of images whose chunk is close to, and not above, `target` bytes."""
    count = 1
    while count * 2 * bytes_per_image <= target and count < n_images:
        count *= 2
    return count


def require_tokens(axes: NodeAxes, path: object) -> None:
    """Refuse a store whose images have only some of their tokens, where a picture is to be made."""
    partial = [model.name for model in axes.models if not model.whole_grid]
    if partial:
        raise BadInput(
            f"{path} holds sampled tokens only ({', '.join(partial)}), so no picture can be made of it",
            do="Extract again without --sample-tokens.",
        )
