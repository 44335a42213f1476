"""How every stage walks over nodes: pending blocks in order, reading ahead, marking each when it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.maths.sampling import SmallestKeys, node_keys, stable_hash
from aligncut_cli.store.read import Store, read_ahead
from aligncut_cli.store.run import Work

if TYPE_CHECKING:
    from aligncut_cli.store.nodes import Block, NodeAxes, Slot


def stream_blocks(
    work: Work,
    phase: str,
    blocks: Sequence[Block],
    *,
    load: Callable[[Block], Any],
    compute: Callable[[int, Block, Any], None],
    axes: NodeAxes,
    console: Console,
) -> None:
    """Load, compute and mark every pending block of a phase, in order.

    load    : called in a background thread, two blocks ahead
    compute : is given the block's index, the block and what was loaded; has written the block when it returns
    """

    pending = list(work.pending(phase))
    total = sum(map(axes.n_block_nodes, blocks))
    done = total - sum(axes.n_block_nodes(blocks[i]) for i in pending)
    with console.progress(phase, total, unit="nodes", done=done) as progress:
        loaded = read_ahead(lambda i=i: load(blocks[i]) for i in pending)
        for index, data in zip(pending, loaded, strict=True):
            compute(index, blocks[index], data)
            work.mark(phase, index)
            progress.advance(axes.n_block_nodes(blocks[index]), str(blocks[index].slot))


def choose_nodes(
    axes: NodeAxes, slots: Sequence[Slot], image_ids: Sequence[str], n_sample: int, *, seed: int, purpose: str
) -> NDArray[np.int64]:
    """Draw nodes of some slots uniformly without replacement: flat indices, ascending.

    A node's chance depends on the seed, the purpose and its own (model, layer, image id, token) only, so neither
    chunking nor the order of the images changes which nodes are drawn.
    """
    image_keys = np.array([stable_hash(seed, purpose, image_id) for image_id in image_ids], dtype=np.uint64)
    smallest = SmallestKeys(n_sample)
    for slot in slots:
        keys = node_keys(image_keys, stable_hash(seed, slot.model, slot.layer), axes[slot.model].n_tokens)
        smallest.add(keys, axes.first_node(slot))
    return smallest.result()


def gather_rows(
    store: Store,
    array: str,
    slots: Sequence[Slot],
    nodes: NDArray[np.int64],
    *,
    images_per_read: Mapping[str, int],
    console: Console,
    label: str,
) -> Iterator[tuple[Slot, slice, NDArray[Any]]]:
    """Read the rows of sampled nodes from `<model>/<array>`; gives (slot, where in `nodes`, rows) block by block.

    nodes : flat indices in these slots, ascending
    """
    from aligncut_cli.store.nodes import image_slices

    axes = store.axes
    wanted: list[tuple[Slot, slice, slice, NDArray[np.int64]]] = []
    position = 0
    for slot in slots:
        places = axes.locate(nodes, slot)
        for images in image_slices(axes[slot.model].n_images, images_per_read[slot.model]):
            low, high = np.searchsorted(places[:, 0], [images.start, images.stop])
            if high > low:
                local = places[low:high] - np.array([images.start, 0])
                wanted.append((slot, images, slice(position, position + high - low), local))
                position += high - low

    def load(slot: Slot, images: slice, places: NDArray[np.int64]) -> NDArray[Any]:
        block = store.read(f"{slot.model}/{array}", (slot.position, images))
        rows: NDArray[Any] = block[places[:, 0], places[:, 1]]
        return rows

    with console.progress(label, len(nodes), unit="nodes") as progress:
        loaded = read_ahead((lambda s=s, i=i, p=p: load(s, i, p)) for s, i, _, p in wanted)
        for (slot, _, where, _), rows in zip(wanted, loaded, strict=True):
            yield slot, where, rows
            progress.advance(len(rows))
