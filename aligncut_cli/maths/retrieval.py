"""Which of several candidates does a query name? Ranks by similarity, and the same ranks under exchanged pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Double = NDArray[np.float64]
Index = NDArray[np.int64]

_EXCHANGES_PER_BLOCK = 256


@dataclass(frozen=True)
class Retrieval:
    """What the queries of one fold retrieve among its candidates; query i belongs to candidate i.

    rank  : (n,) how many wrong candidates come before the right one, from 0
    best  : (n,) the candidate that comes first
    wrong : (n,) the wrong candidate that comes first
    null  : (tables, exchanges) sums over queries of each table at the rank of a candidate that was exchanged for the
            right one
    """

    rank: Index
    best: Index
    wrong: Index
    null: Double


def standardize_rows(values: NDArray[np.floating], *, centre: bool = True) -> Floats:
    """Scale every row to unit length, less its mean; products of such rows are correlations.

    values  : (n, d)
    centre  : whether rows lose their mean; otherwise products are cosines
    returns : (n, d) float32; a constant row, or a row of zeros, gives zeros
    """
    rows = values.astype(np.float64)
    size = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    if centre:
        rows -= rows.mean(axis=1, keepdims=True)
    length = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    said = length > 1e-9 * size
    return np.where(said, rows / np.where(said, length, 1), 0).astype(np.float32)


def order_ties(n: int, *, seed: int, fold: int) -> Index:
    """Return a random order of candidates, (n,), by which equal similarities are ranked."""
    return np.random.default_rng([seed, 12, fold]).permutation(n)


def exchange_pairs(n: int, *, n_exchanges: int, seed: int, fold: int) -> NDArray[np.int32]:
    """Return random assignments of candidates to queries, (exchanges, n): the null hypothesis that pairs say nothing.

    They depend on the seed, the fold and its size only, so that all runs see the same ones.
    """
    own = np.tile(np.arange(n, dtype=np.int32), (n_exchanges, 1))
    return np.random.default_rng([seed, 11, fold]).permuted(own, axis=1)


def retrieve(
    queries: Floats,
    candidates: Floats,
    *,
    ties: Index,
    exchanges: NDArray[np.int32],
    tables: Double,
    rows_per_block: int = 64,
) -> Retrieval:
    """Rank every candidate for every query by their inner product, the largest first.

    queries, candidates : (n, d), in the same order
    ties                : (n,) order of candidates that are equally similar
    exchanges           : (exchanges, n) candidates that are exchanged for the right ones
    tables              : (tables, n) what a rank is worth
    rows_per_block      : queries ranked at a time; memory grows with it times the candidates
    """
    n = len(queries)
    rank, best, wrong = (np.empty(n, dtype=np.int64) for _ in range(3))
    null = np.zeros((len(tables), len(exchanges)))
    for start in range(0, n, rows_per_block):
        own = np.arange(start, min(start + rows_per_block, n))
        order = _sort_candidates(queries[own] @ candidates.T, ties)
        ranks = np.empty(order.shape, dtype=np.int32)
        np.put_along_axis(ranks, order, np.arange(n, dtype=np.int32)[None], axis=1)
        rank[own] = ranks[np.arange(len(own)), own]
        best[own] = order[:, 0]
        wrong[own] = np.where(order[:, 0] == own, order[:, min(1, n - 1)], order[:, 0])
        for first in range(0, len(exchanges), _EXCHANGES_PER_BLOCK):
            part = slice(first, first + _EXCHANGES_PER_BLOCK)
            exchanged = np.take_along_axis(ranks, exchanges[part, own].T, axis=1)
            for total, table in zip(null, tables, strict=True):
                total[part] += table[exchanged].sum(axis=0)
    return Retrieval(rank, best, wrong, null)


def _sort_candidates(similarity: Floats, ties: Index) -> Index:
    """Return the candidates of every query, the most similar first, (queries, n)."""
    order: Index = ties[np.argsort(-similarity[:, ties], axis=1, kind="stable")]
    return order


def count_first(queries: Floats, candidates: Floats) -> int:
    """Return how many queries are more similar to their own candidate than to any other; ties do not count.

    queries, candidates : (n, d), in the same order
    """
    similarity = queries @ candidates.T
    own = np.diagonal(similarity).copy()
    np.fill_diagonal(similarity, -np.inf)
    return int((own > similarity.max(axis=1)).sum())
