"""Draws sampled nodes of a store and gathers their rows, block by block, reading ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.maths.sampling import SmallestKeys, node_keys, stable_hash
from aligncut_cli.store.kinds.base import NodeStore
from aligncut_cli.store.nodes import Block, Slot, image_slices
from aligncut_cli.store.phases import load_ahead

KEYS_AT_ONCE = 1 << 20
"""Nodes that keys are drawn of at once: 100,000 images of one slot would take 1.3 GB."""


def choose_nodes(
    source: NodeStore, slots: Sequence[Slot], n_sample: int, *, seed: int, purpose: str
) -> NDArray[np.int64]:
    """Draw nodes of some slots uniformly without replacement: flat indices, ascending.

    A node's chance depends on the seed, the purpose and its own (model, layer, image id, token) only, so neither
    chunking nor the order of the images changes which nodes are drawn.
    """
    axes = source.axes
    image_keys = np.array([stable_hash(seed, purpose, image_id) for image_id in source.ids], dtype=np.uint64)
    smallest = SmallestKeys(n_sample)
    for slot in slots:
        salt, n_tokens, first = (
            stable_hash(seed, slot.model, slot.layer),
            axes[slot.model].n_tokens,
            axes.first_node(slot),
        )
        for images in image_slices(len(image_keys), max(1, KEYS_AT_ONCE // n_tokens)):
            smallest.add(node_keys(image_keys[images], salt, n_tokens), first + images.start * n_tokens)
    return smallest.result()


def iterate_rows(
    source: NodeStore, slots: Sequence[Slot], nodes: NDArray[np.int64], *, console: Console, label: str
) -> Iterator[tuple[Slot, slice, NDArray[Any]]]:
    """Read the rows of sampled nodes; gives (slot, where in `nodes`, rows) block by block.

    nodes : flat indices in these slots, ascending
    """
    axes = source.axes
    wanted: list[tuple[Block, slice, NDArray[np.int64]]] = []
    position = 0
    for slot in slots:
        places = axes.locate(nodes, slot)
        for images in image_slices(axes[slot.model].n_images, source.images_per_chunk[slot.model]):
            low, high = np.searchsorted(places[:, 0], [images.start, images.stop])
            if high > low:
                local = places[low:high] - np.array([images.start, 0])
                wanted.append((Block(slot, images), slice(position, position + high - low), local))
                position += high - low

    def load(item: tuple[Block, slice, NDArray[np.int64]]) -> NDArray[Any]:
        block, _, places = item
        rows: NDArray[Any] = source.read_block(block)[places[:, 0], places[:, 1]]
        return rows

    with console.progress(label, len(nodes), unit="nodes") as progress:
        for (block, where, _), rows in load_ahead(wanted, load):
            yield block.slot, where, rows
            progress.advance(len(rows))


def gather_rows(
    source: NodeStore, slots: Sequence[Slot], nodes: NDArray[np.int64], *, console: Console, label: str
) -> NDArray[np.float32]:
    """Return the rows of sampled nodes as they are stored, (n, last axis)."""
    width = source.store.array(source.NODES.at(slots[0].model)).shape[3]
    out = np.empty((len(nodes), width), dtype=np.float32)
    for _, where, rows in iterate_rows(source, slots, nodes, console=console, label=label):
        out[where] = rows
    return out
