"""Nearest sampled nodes of every node: exact search by FAISS or torch, and an inverted-file search in tiles."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.products import inner_products

METHODS = ("auto", "flat", "ivf", "torch")
METRICS = ("cosine", "euclidean")

# A cell lists this many times K candidates, and at least so many. Ten K yield the eigenvectors of exact search to a
# mean squared cosine of .9998; for distances, more candidates leave fewer answers unsure.
_CANDIDATES_PER_NEIGHBOUR = 10
_FEWEST_CANDIDATES = {"cosine": 512, "euclidean": 4096}
_POINTS_PER_CELL = 100
_MOST_CELLS = 1024
_KMEANS_STEPS = 8
# A row belongs to its two nearest cells where their scores differ by less: rounding may give an equal query to either.
_SAME_CELL = 1e-5
# Exact search is taken where it costs no more than this.
_EXACT_NANOSECONDS = 3e9
# Queries and database rows per tile: on a CPU the scores of a tile stay in its cache.
_QUERY_TILE = {"cpu": 512, "cuda": 8192}
_DATABASE_TILE = {"cpu": 4096, "cuda": 32768}


class NeighbourSearch(Protocol):
    """A database prepared for queries.

    record : how it searches, for the store's record
    """

    record: dict[str, object]

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the k nearest database rows of each query.

        queries : (n, D) float32 (unit or zero rows for the cosine metric)
        returns : (n, k) float32 cosines, descending, or squared distances, ascending; (n, k) int64 database rows
        """


def choose_search(
    *, method: str, n_queries: int, n_sample: int, dim: int, device: torch.device | str, metric: str = "cosine"
) -> str:
    """Settle `auto`: exact search while it takes seconds, or costs less than the inverted file with its training.

    method    : 'auto', 'flat', 'ivf' or 'torch'; any but 'auto' is returned as it is
    n_queries : M, nodes to search for
    n_sample  : m, nodes to search in
    dim       : D
    metric    : 'cosine' or 'euclidean'
    """
    if method not in METHODS:
        raise UsageError(f"there is no search method {method!r}", do=f"choose one of {', '.join(METHODS)}")
    if method != "auto":
        return method
    if torch.device(device).type != "cpu":
        return "torch"
    # Nanoseconds on two cores, measured for D from 20 to 768 and about a hundred neighbours.
    pair = 1.4 + 0.0052 * dim
    cells, candidates = _n_cells(n_sample), min(n_sample, max(1000, _FEWEST_CANDIDATES[metric]))
    training = 2 * (_KMEANS_STEPS + 1) * n_sample * cells * pair
    inverted = training + n_queries * ((cells + 1.3 * candidates) * pair + 2500)
    exact = n_queries * n_sample * pair
    # Cells answer exactly by distance; by cosine they cost up to a hundredth of the trace where the sample is small.
    patience = _EXACT_NANOSECONDS if metric == "cosine" else 0.0
    return "flat" if exact <= max(inverted, patience) else "ivf"


def build_search(
    database: torch.Tensor, *, method: str, metric: str, seed: int, device: torch.device | str
) -> NeighbourSearch:
    """Prepare a database for nearest-neighbour queries.

    database : (m, D) float32 (unit or zero rows for the cosine metric)
    method   : 'flat' exact by FAISS on the CPU; 'torch' exact, tiled, on any device; 'ivf' approximate, on any device
    metric   : 'cosine' (largest inner product) or 'euclidean' (smallest squared distance)
    seed     : of the cells' training
    """
    if metric not in METRICS:
        raise UsageError(f"there is no metric {metric!r}", do=f"choose one of {', '.join(METRICS)}")
    if len(database) < 1:
        raise BadInput("there are no sampled nodes to search in")
    if method == "flat":
        return _FlatSearch(database, metric)
    if method == "torch":
        return _TiledSearch(database, metric, device)
    if method == "ivf":
        return _CellSearch(database, metric, device, seed)
    raise UsageError(f"there is no search method {method!r}", do=f"choose one of {', '.join(METHODS[1:])}")


class _FlatSearch:
    """FAISS's exact index: independent of the code below, so it is the reference too."""

    def __init__(self, database: torch.Tensor, metric: str) -> None:
        import faiss

        self._metric = metric
        self._device = database.device
        rows = database.detach().to("cpu", torch.float32)
        # Distances as |q|^2 - 2 q.s + |s|^2 lose least when the points lie around zero.
        self._origin = rows.mean(dim=0) if metric == "euclidean" else torch.zeros(rows.shape[1])
        self._index: Any = (faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2)(rows.shape[1])
        self._index.add((rows - self._origin).contiguous().numpy())
        self._rows = len(rows)
        self.record: dict[str, object] = {"method": "flat", "exact": True, "engine": f"faiss {faiss.__version__}"}

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        _check_k(k, self._rows)
        rows = (queries.detach().to("cpu", torch.float32) - self._origin).contiguous()
        scores, indices = self._index.search(rows.numpy(), k)
        scores, indices = torch.from_numpy(scores), torch.from_numpy(indices)
        if self._metric == "cosine":
            scores.clamp_(-1.0, 1.0)
        return _to(queries.device, *_sort_ties(scores, indices, descending=self._metric == "cosine"))


class _TiledSearch:
    """Exact search by tiles of one matrix product and a running top-k."""

    def __init__(self, database: torch.Tensor, metric: str, device: torch.device | str) -> None:
        self._metric = metric
        self._device = torch.device(device)
        rows = database.to(self._device, torch.float32)
        self._origin = rows.mean(dim=0) if metric == "euclidean" else None
        self._rows = rows if self._origin is None else rows - self._origin
        # |q - s|^2 = |q|^2 - 2 (q.s - |s|^2 / 2): the largest of the bracket is the nearest.
        self._half = None if self._origin is None else self._rows.square().sum(dim=1) / 2
        self._select = _Selection()
        self.record: dict[str, object] = {"method": "torch", "exact": True, "engine": f"torch on {self._device.type}"}

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        _check_k(k, len(self._rows))
        scores, indices = [], []
        for part in queries.split(_QUERY_TILE.get(self._device.type, 4096)):
            rows = part.to(self._device, torch.float32)
            rows = rows if self._origin is None else rows - self._origin
            score, index = self._top(rows, k)
            scores.append(self._finish(score, index, rows).to(queries.device))
            indices.append(index.to(queries.device))
        if not scores:
            return torch.empty(0, k, device=queries.device), torch.empty(0, k, dtype=torch.int64, device=queries.device)
        score, index = torch.cat(scores), torch.cat(indices)
        return _sort_ties(score, index, descending=self._metric == "cosine")

    def _top(self, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        score = torch.empty(len(rows), 0, device=self._device)
        index = torch.empty(len(rows), 0, dtype=torch.int64, device=self._device)
        step = _DATABASE_TILE.get(self._device.type, 16384)
        for low in range(0, len(self._rows), step):
            tile = inner_products(rows, self._rows[low : low + step])
            if self._half is not None:
                tile -= self._half[low : low + step]
            best, place = self._select.largest(tile, k)
            del tile  # before the next one is made
            score, index = torch.cat([score, best], dim=1), torch.cat([index, place + low], dim=1)
            if score.shape[1] > k:
                score, keep = self._select.largest(score, k)
                index = index.gather(1, keep)
        return score, index

    def _finish(self, score: torch.Tensor, index: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if self._metric == "cosine":
            return score.clamp_(-1.0, 1.0)
        return _squared_distances(rows, self._rows, index)


class _CellSearch:
    """Inverted-file search in tiles: a query is compared with the candidates of its nearest cell only.

    A cell's candidates are the P database rows nearest to its centre, so that one list does the work of several probed
    lists and a cell's queries make one dense product in full dimension. By cosine its own members are added, however
    many and far away: a query that is in the database always finds itself.

    For distances the triangle inequality tells which answers are certain: a row outside of the list is at least
    R - |q - centre| away, R the distance of the list's last row. The rest is searched exactly, so the result is exact.
    Unit vectors of high dimension are all far from each other; there the answer of the list stands.
    """

    def __init__(self, database: torch.Tensor, metric: str, device: torch.device | str, seed: int) -> None:
        self._metric = metric
        self._device = torch.device(device)
        self._rows = database.to(self._device, torch.float32)
        n_cells = _n_cells(len(database))
        self._centres = _train_cells(self._rows, n_cells, seed, spherical=metric == "cosine")
        self._half = 0 if metric == "cosine" else self._centres.square().sum(dim=1) / 2
        self._exhaustive = _TiledSearch(database, metric, device) if metric == "euclidean" else None
        self._select = _Selection()
        self._n_candidates = 0
        self.record: dict[str, object] = {
            "method": "ivf",
            "exact": metric == "euclidean",
            "engine": f"torch on {self._device.type}",
            "cells": n_cells,
        }

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        _check_k(k, len(self._rows))
        self._list_candidates(k)
        rows = queries.to(self._device, torch.float32)
        cell, offset = self._assign(rows)
        score = torch.empty(len(rows), k, device=self._device)
        index = torch.empty(len(rows), k, dtype=torch.int64, device=self._device)
        order = cell.argsort(stable=True)
        start = 0
        for number, count in enumerate(torch.bincount(cell, minlength=len(self._centres)).tolist()):
            if count:
                self._search_cell(number, order[start : start + count], rows, score, index)
            start += count
        if self._exhaustive is None:
            return (score + offset[:, None]).clamp_(-1.0, 1.0), index
        score = _squared_distances(rows, self._rows, index)
        unsure = torch.nonzero(score[:, -1].sqrt() + offset > self._reach[cell] * (1 - 1e-5)).squeeze(1)
        if len(unsure):
            score[unsure], index[unsure] = self._exhaustive.search(rows[unsure], k)
        return _sort_ties(score, index, descending=False)

    def _search_cell(
        self, number: int, members: torch.Tensor, rows: torch.Tensor, score: torch.Tensor, index: torch.Tensor
    ) -> None:
        candidates, centre = self._candidates[number], self._centres[number]
        # Relative to the cell's centre scores are small numbers, and so is their rounding.
        near = self._rows.index_select(0, candidates) - centre
        for part in members.split(_QUERY_TILE.get(self._device.type, 4096)):
            own = rows.index_select(0, part)
            if self._metric == "cosine":
                tile = inner_products(own, near)
            else:
                tile = inner_products(own - centre, near) - near.square().sum(dim=1) / 2
            best, place = self._select.largest(tile, score.shape[1])
            score[part] = best
            index[part] = candidates[place]

    def _assign(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find each query's cell and its cosine or distance to the centre."""
        cells, offsets = [], []
        for part in rows.split(8192):
            best = (inner_products(part, self._centres) - self._half).max(dim=1)
            cells.append(best.indices)
            far = (part - self._centres[best.indices]).norm(dim=1) if self._metric == "euclidean" else best.values
            offsets.append(far)
        return torch.cat(cells), torch.cat(offsets)

    def _list_candidates(self, k: int) -> None:
        m = len(self._rows)
        wanted = min(m, max(_FEWEST_CANDIDATES[self._metric], _CANDIDATES_PER_NEIGHBOUR * k))
        if wanted == self._n_candidates:
            return
        half = 0 if self._metric == "cosine" else self._rows.square().sum(dim=1) / 2
        lists = [
            self._select.largest(inner_products(part, self._rows) - half, wanted)[1]
            for part in self._centres.split(256)
        ]
        nearest = torch.cat(lists)
        self._candidates = list(nearest) if self._metric == "euclidean" else self._add_members(nearest)
        last = self._rows[nearest[:, -1]]
        self._reach = (last - self._centres).norm(dim=1) if wanted < m else torch.full((len(last),), float("inf"))
        self._reach = self._reach.to(self._device)
        self._n_candidates = wanted

    def _add_members(self, nearest: torch.Tensor) -> list[torch.Tensor]:
        """Return each cell's candidates with the rows that have no nearer centre: (L, P) -> L of (P or more,)."""
        rows, cells = [], []
        for start, part in zip(range(0, len(self._rows), 8192), self._rows.split(8192), strict=True):
            best = torch.topk(inner_products(part, self._centres), min(2, len(self._centres)), dim=1)
            row, place = torch.nonzero(best.values >= best.values[:, :1] - _SAME_CELL, as_tuple=True)
            rows.append(row + start)
            cells.append(best.indices[row, place])
        cell, order = torch.cat(cells).sort(stable=True)
        counts = torch.bincount(cell, minlength=len(nearest)).tolist()
        members = torch.cat(rows)[order].split(counts)
        return [torch.cat(pair).unique() for pair in zip(nearest, members, strict=True)]


def _train_cells(rows: torch.Tensor, n_cells: int, seed: int, *, spherical: bool) -> torch.Tensor:
    """Lloyd's k-means from seeded rows: (m, D) -> (L, D) centres, of unit length where `spherical`."""
    generator = torch.Generator().manual_seed(seed)
    centres = rows[torch.randperm(len(rows), generator=generator)[:n_cells].to(rows.device)].clone()
    for _ in range(_KMEANS_STEPS):
        half = 0 if spherical else centres.square().sum(dim=1) / 2
        cell = torch.cat([(inner_products(part, centres) - half).argmax(dim=1) for part in rows.split(8192)])
        sums = torch.zeros_like(centres)
        for part, own in zip(rows.split(8192), cell.split(8192), strict=True):
            # A product with indicators instead of scattered sums, which are not reproducible on a GPU.
            sums += torch.nn.functional.one_hot(own, len(centres)).to(rows.dtype).T @ part
        counts = torch.bincount(cell, minlength=len(centres))[:, None]
        means = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        if spherical:
            means = means / means.norm(dim=1, keepdim=True).clamp(min=1e-30)
        centres = means
    return centres


def _n_cells(n_sample: int) -> int:
    return max(1, min(_MOST_CELLS, n_sample // _POINTS_PER_CELL))


class _Selection:
    """The k largest of each row, sorted.

    On the CPU numpy's vectorized partition takes a quarter of the time of torch.topk; it runs on one thread, so the
    rows are shared out.
    """

    def __init__(self) -> None:
        self._workers = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._workers)

    def largest(self, scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, m) -> (n, min(k, m)) values, descending, and their columns."""
        if k == 1:
            best = scores.max(dim=1, keepdim=True)
            return best.values, best.indices
        if k >= scores.shape[1] or scores.device.type != "cpu":
            top = torch.topk(scores, min(k, scores.shape[1]), dim=1)
            return top.values, top.indices
        values = scores.numpy()
        parts = np.array_split(values, min(self._workers, max(1, len(values) // 64)))
        run = map if len(parts) == 1 else self._pool.map
        columns = torch.cat(list(run(lambda part: _partition(part, k), parts)))
        ordered = scores.gather(1, columns).sort(dim=1, descending=True)
        return ordered.values, columns.gather(1, ordered.indices)


def _partition(values: NDArray[np.float32], k: int) -> torch.Tensor:
    return torch.from_numpy(np.argpartition(values, values.shape[1] - k, axis=1)[:, -k:])


def _squared_distances(rows: torch.Tensor, database: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Squared distances by differences, free of cancellation: (n, D), (m, D), (n, k) -> (n, k)."""
    columns = [(rows - database[index[:, column]]).square().sum(dim=1) for column in range(index.shape[1])]
    return torch.stack(columns, dim=1)


def _sort_ties(score: torch.Tensor, index: torch.Tensor, *, descending: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Order best first, and equal scores by database row."""
    by_row = index.argsort(dim=1)
    score, index = score.gather(1, by_row), index.gather(1, by_row)
    by_score = score.argsort(dim=1, descending=descending, stable=True)
    return score.gather(1, by_score), index.gather(1, by_score)


def _to(device: torch.device, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = (tensor.to(device) for tensor in tensors)
    return first, second


def _check_k(k: int, n_rows: int) -> None:
    if not 1 <= k <= n_rows:
        raise BadInput(f"cannot find {k} nearest of {n_rows} sampled nodes", do=f"ask for 1 to {n_rows}")
