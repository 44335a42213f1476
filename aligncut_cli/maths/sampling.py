"""Seeded sampling of nodes that depends neither on chunking nor on the order of the images; farthest point sampling."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput

# Splitmix64 (Steele, Lea and Flood 2014): an odd increment, and a finalizer that turns counters into uniform keys.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

# Below this many points the whole distance row is cheaper than deciding which cells to skip.
_FPS_CELLS_FROM = 4096


def stable_hash(seed: int, *parts: str | int) -> np.uint64:
    """Hash a seed and names to 64 bits, the same on every machine and in every process.

    seed    : any integer
    parts   : model name, layer, image id, ...; 1 and "1" differ, as do ("ab",) and ("a", "b")
    returns : uint64
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (int(seed), *parts):
        text = part.encode() if isinstance(part, str) else str(int(part)).encode()
        digest.update((b"s" if isinstance(part, str) else b"i") + len(text).to_bytes(8, "little") + text)
    return np.frombuffer(digest.digest(), dtype="<u8").astype(np.uint64)[0]  # type: ignore[no-any-return]


def node_keys(image_keys: NDArray[np.uint64], slot_key: int | np.uint64, n_tokens: int) -> NDArray[np.uint64]:
    """Give each node of one slot its sampling priority.

    A key depends on the seed, slot, image and token only (through their hashes), so the sample does not depend on
    chunks, and permuting the images permutes the keys.

    image_keys : (I,) uint64, `stable_hash(seed, image id)` of each image
    slot_key   : `stable_hash(seed, model name, layer)`
    n_tokens   : T, tokens per image
    returns    : (I, T) uint64, uniform on 0 .. 2**64 - 1
    """
    images = _mix(np.asarray(image_keys, dtype=np.uint64) ^ _mix(np.asarray([slot_key], dtype=np.uint64)))
    counters = np.arange(1, n_tokens + 1, dtype=np.uint64) * _GOLDEN
    return _mix(images[:, None] + counters[None, :])


def _mix(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    keys = (keys ^ (keys >> np.uint64(30))) * _MIX_1
    keys = (keys ^ (keys >> np.uint64(27))) * _MIX_2
    return keys ^ (keys >> np.uint64(31))


class SmallestKeys:
    """Keep the m nodes with the smallest keys of a stream: uniform sampling without replacement.

    Memory is bounded by two samples and one block, whatever the length of the stream.
    """

    def __init__(self, n_sample: int) -> None:
        if n_sample < 1:
            raise BadInput(f"cannot sample {n_sample} nodes", do="ask for at least 1")
        self.n_sample = n_sample
        self._keys: list[NDArray[np.uint64]] = []
        self._nodes: list[NDArray[np.int64]] = []
        self._held = 0
        self._limit = np.uint64(0xFFFFFFFFFFFFFFFF)

    def add(self, keys: NDArray[np.uint64], nodes: NDArray[np.int64] | int) -> None:
        """Offer a block of nodes.

        keys  : uint64, any shape, read in C-order
        nodes : flat indices of the same length, or the flat index of the first where they follow each other
        """
        keys = keys.reshape(-1)
        near = np.flatnonzero(keys <= self._limit)
        chosen = near + np.int64(nodes) if isinstance(nodes, int | np.integer) else np.asarray(nodes).reshape(-1)[near]
        self._keys.append(keys[near])
        self._nodes.append(chosen.astype(np.int64))
        self._held += near.size
        if self._held > 2 * self.n_sample:
            self._prune()

    def result(self) -> NDArray[np.int64]:
        """Return the flat indices of the chosen nodes: (min(m, nodes offered),) int64, ascending."""
        if not self._held:
            return np.empty(0, dtype=np.int64)
        self._prune()
        return np.sort(self._nodes[0])

    def _prune(self) -> None:
        keys, nodes = np.concatenate(self._keys), np.concatenate(self._nodes)
        # The flat index decides between equal keys, so that the order of the blocks cannot.
        order = np.lexsort((nodes, keys))[: self.n_sample]
        keys, nodes = keys[order], nodes[order]
        self._keys, self._nodes, self._held = [keys], [nodes], len(keys)
        if self._held == self.n_sample:
            self._limit = keys[-1]


def smallest_keys(keys: NDArray[np.uint64], n_sample: int) -> NDArray[np.int64]:
    """Pick the nodes with the m smallest keys of an array that is at hand as a whole.

    keys     : uint64, any shape
    n_sample : m
    returns  : (min(m, keys.size),) int64, flat indices, ascending
    """
    sample = SmallestKeys(n_sample)
    sample.add(keys, 0)
    return sample.result()


def farthest_point_sample(points: torch.Tensor, n_sample: int, *, start: int) -> torch.Tensor:
    """Choose points one by one, each the farthest (Euclidean) from all chosen before.

    Exact. Points are kept in cells with a centre and a radius; a cell is left alone when the triangle inequality shows
    that the new point is no nearer to any of its members than what they have, which is soon nearly always.

    points   : (n, d) coordinates, finite
    n_sample : how many to choose, 1 .. n
    start    : index of the first
    returns  : (n_sample,) int64 indices in the order of choice, on the CPU; of equally far points the lowest index
    """
    n = points.shape[0]
    if not 1 <= n_sample <= n:
        raise BadInput(f"cannot choose {n_sample} of {n} points", do=f"ask for 1 to {n}")
    if not 0 <= start < n:
        raise BadInput(f"there is no point {start} to start from", why=f"there are {n} points")
    # float64 on the CPU: each step is tiny, so a GPU would only wait, and ties must not hang on rounding.
    data = points.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(data).all():
        raise BadInput("points to sample from hold NaN or infinity")
    data = data - data.mean(axis=0)
    order = _farthest_in_cells(data, n_sample, start) if n >= _FPS_CELLS_FROM else _farthest(data, n_sample, start)
    return torch.from_numpy(order)


def _farthest(data: NDArray[np.float64], n_sample: int, start: int) -> NDArray[np.int64]:
    order = np.empty(n_sample, dtype=np.int64)
    nearest = np.full(len(data), np.inf)
    chosen = start
    for step in range(n_sample):
        order[step] = chosen
        np.minimum(nearest, _squared_distances(data, data[chosen]), out=nearest)
        nearest[chosen] = -1.0
        chosen = int(nearest.argmax())
    return order


def _farthest_in_cells(data: NDArray[np.float64], n_sample: int, start: int) -> NDArray[np.int64]:
    n = len(data)
    by_cell, edges = _median_cells(data, max(8, int(np.sqrt(n) / 4)))
    starts, sizes = edges[:-1], np.diff(edges)
    inside = data[by_cell]
    centres = np.add.reduceat(inside, starts, axis=0) / sizes[:, None]
    spread = np.sqrt(_row_norms(inside - np.repeat(centres, sizes, axis=0)))
    # A little slack keeps the bound valid under rounding; a cell visited in vain costs time, not correctness.
    radius = np.maximum.reduceat(spread, starts) * (1 + 1e-9) + 1e-12 * np.abs(data).max()
    position = np.empty(n, dtype=np.int64)
    position[by_cell] = np.arange(n)

    nearest = np.full(n, np.inf)
    farthest = np.full(len(sizes), np.inf)
    candidate = starts.copy()
    order = np.empty(n_sample, dtype=np.int64)
    chosen = int(position[start])
    for step in range(n_sample):
        order[step] = by_cell[chosen]
        nearest[chosen] = -1.0
        point = inside[chosen]
        gap = np.sqrt(_squared_distances(centres, point)) - radius
        reached = np.flatnonzero((gap < 0) | (gap * gap < farthest))
        for cell in reached:
            low, high = edges[cell], edges[cell + 1]
            own = nearest[low:high]
            np.minimum(own, _squared_distances(inside[low:high], point), out=own)
            best = low + int(own.argmax())
            candidate[cell], farthest[cell] = best, nearest[best]
        top = farthest.max()
        ties = np.flatnonzero(farthest == top)
        if len(ties) == 1:
            chosen = int(candidate[ties[0]])
        else:
            chosen = int(candidate[ties[np.argmin(by_cell[candidate[ties]])]])
    return order


def _median_cells(data: NDArray[np.float64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split points at the median of their widest axis until cells hold at most `size`; indices ascend in each cell."""
    pending, cells = [np.arange(len(data))], []
    while pending:
        members = pending.pop()
        if len(members) <= size:
            cells.append(np.sort(members))
            continue
        block = data[members]
        axis = int((block.max(axis=0) - block.min(axis=0)).argmax())
        half = len(members) // 2
        split = np.argpartition(block[:, axis], half)
        pending += [members[split[:half]], members[split[half:]]]
    return np.concatenate(cells), np.concatenate([[0], np.cumsum([len(cell) for cell in cells])])


def _squared_distances(data: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    return _row_norms(data - point)


def _row_norms(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.einsum("nd,nd->n", rows, rows)
    return squares
