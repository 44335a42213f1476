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

# Farthest points are chosen among this many candidates between two updates of all distances.
_CANDIDATES = 2048
_DISTANCE_ROWS = 4096
# Farthest points of a graph are chosen among this many times as many uniform ones, in a random projection.
FPS_POOL, FPS_DIMS = 4, 32
# Rows of a table that one hash is drawn for; a piece of the stream, not a parameter of the sample.
_ROWS_PER_KEY = 1 << 16
# Distances that differ by less than this share are equal: rounding must not decide which index comes first.
_SAME = 1e-12


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


def draw_rows(n_rows: int, n_sample: int, *, seed: int) -> NDArray[np.int64]:
    """Draw rows of one table uniformly without replacement: (min(m, n),) int64, ascending.

    n_rows   : n
    n_sample : m, at least 1; all rows where there are no more
    """
    smallest = SmallestKeys(n_sample)
    for low in range(0, n_rows, _ROWS_PER_KEY):
        piece = np.array([stable_hash(seed, "rows", low)], dtype=np.uint64)
        smallest.add(node_keys(piece, stable_hash(seed, "rows"), min(_ROWS_PER_KEY, n_rows - low)), low)
    return smallest.result()


def choose_farthest(unit_rows: NDArray[np.float32], n_sample: int, *, seed: int) -> NDArray[np.int64]:
    """Choose rows of a pool by farthest points, in a random projection to FPS_DIMS where they have more channels.

    unit_rows : (n, D)
    seed      : of the projection
    returns   : (n_sample,) indices, ascending
    """
    points, dim = unit_rows, unit_rows.shape[1]
    if dim > FPS_DIMS:
        projection = np.random.default_rng(seed).standard_normal((dim, FPS_DIMS))
        points = unit_rows @ (projection / np.sqrt(FPS_DIMS)).astype(np.float32)
    chosen: NDArray[np.int64] = np.sort(farthest_point_sample(torch.from_numpy(points), n_sample, start=0).numpy())
    return chosen


def farthest_point_sample(points: torch.Tensor, n_sample: int, *, start: int) -> torch.Tensor:
    """Choose points one by one, each the farthest (Euclidean) from all chosen before.

    Exact, yet most of the work is matrix products. A point's distance to the chosen ones only falls, so an old value is
    an upper bound: choices are made among the points with the largest old values, with exact distances among these,
    until one of the others might be farther; then all distances are updated by the whole batch of choices.

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
    data = points.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(data).all():
        raise BadInput("points to sample from hold NaN or infinity")
    data = data - data.mean(axis=0)
    squares = _row_norms(data)
    zero = _SAME * float(squares.max())
    nearest = np.full(n, np.inf)
    order: list[int] = []
    batch = [start]
    while True:
        order += batch
        if len(order) == n_sample:
            break
        for low in range(0, n, _DISTANCE_ROWS):
            rows = slice(low, low + _DISTANCE_ROWS)
            gaps = squares[batch] - 2 * (data[rows] @ data[batch].T)
            np.minimum(nearest[rows], gaps.min(axis=1) + squares[rows], out=nearest[rows])
        nearest[nearest <= zero] = 0
        nearest[order] = -1
        if nearest.max() <= 0:
            # Only copies of chosen points are left.
            order += np.flatnonzero(nearest == 0)[: n_sample - len(order)].tolist()
            break
        batch = _choose_batch(data, squares, nearest, n_sample - len(order), zero)
    return torch.tensor(order, dtype=torch.int64)


def _choose_batch(
    data: NDArray[np.float64], squares: NDArray[np.float64], nearest: NDArray[np.float64], most: int, zero: float
) -> list[int]:
    limit = 0.0 if len(data) <= _CANDIDATES else float(np.partition(nearest, -_CANDIDATES)[-_CANDIDATES])
    eligible = nearest >= limit * (1 - _SAME)
    bound = float(nearest.max(initial=-1.0, where=~eligible))
    places = np.flatnonzero(eligible)
    own, inside, norms = nearest[places], data[places], squares[places]
    batch: list[int] = []
    while len(batch) < most:
        top = float(own.max()) * (1 - _SAME)
        if top <= 0 or (batch and top <= bound):
            break
        chosen = int((own >= top).argmax())
        batch.append(int(places[chosen]))
        gaps = norms - 2 * (inside @ inside[chosen]) + norms[chosen]
        gaps[gaps <= zero] = 0
        np.minimum(own, gaps, out=own)
        own[chosen] = -1
    return batch


def _row_norms(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = np.einsum("nd,nd->n", rows, rows)
    return squares
