"""Ranks, scores, intervals and null of a retrieval, each against the slow and obvious way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from aligncut_cli.maths.bootstrap import COVERAGE
from aligncut_cli.maths.permutations import count_as_extreme
from aligncut_cli.maths.retrieval import count_first, exchange_pairs, order_ties, retrieve, standardize_rows
from aligncut_cli.maths.retrieval_scores import (
    bootstrap_ranks,
    chance_of_top,
    credit_pairwise,
    credit_top,
    expect_rank,
    wilson_interval,
)

N = 12


def noisy_pairs(n: int, seed: int, signal: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    candidates = rng.standard_normal((n, 20))
    queries = signal * candidates + rng.standard_normal((n, 20))
    return standardize_rows(queries), standardize_rows(candidates)


def test_rows_are_scaled_so_that_products_are_correlations_and_constant_rows_say_nothing() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 8)) * 3 + 100
    rows[4] = 7.3
    made = standardize_rows(rows)
    np.testing.assert_allclose(made[:4] @ made[:4].T, np.corrcoef(rows[:4]), atol=1e-6)
    assert not made[4].any()
    cosines = standardize_rows(rows, centre=False)
    np.testing.assert_allclose(np.linalg.norm(cosines, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("rows_per_block", [1, 5, 64])
def test_ranks_and_their_null_are_those_of_a_loop_over_sorted_lists(rows_per_block: int) -> None:
    queries, candidates = noisy_pairs(N, 1, 0.7)
    exchanges = exchange_pairs(N, n_exchanges=9, seed=0, fold=0)
    tables = np.stack([credit_top(N, candidates=N, top=1), credit_pairwise(N)])
    found = retrieve(
        queries,
        candidates,
        ties=order_ties(N, seed=0, fold=0),
        exchanges=exchanges,
        tables=tables,
        rows_per_block=rows_per_block,
    )
    for i in range(N):
        similar = [float(queries[i] @ candidate) for candidate in candidates]
        order = sorted(range(N), key=lambda j: -similar[j])
        assert found.rank[i] == order.index(i)
        assert found.best[i] == order[0]
        assert found.wrong[i] == next(j for j in order if j != i)
    for e, exchange in enumerate(exchanges):
        ranks = [
            sorted(range(N), key=lambda j: -float(queries[i] @ candidates[j])).index(exchange[i]) for i in range(N)
        ]
        np.testing.assert_allclose(found.null[:, e], tables[:, ranks].sum(axis=1))
    assert count_first(queries, candidates) == (found.rank == 0).sum()


def test_equal_similarities_are_ranked_at_random_so_that_a_constant_prediction_scores_chance() -> None:
    queries, constant = noisy_pairs(400, 2, 0)[0], np.zeros((400, 20), np.float32)
    none = np.empty((0, 400), np.int32)
    found = retrieve(queries, constant, ties=order_ties(400, seed=0, fold=0), exchanges=none, tables=np.ones((1, 400)))
    assert sorted(found.rank) == list(range(400))
    assert list(found.rank) != list(range(400))
    assert count_first(queries, constant) == 0


def test_fewer_candidates_are_worth_the_mean_over_all_draws_of_them() -> None:
    for top, k in itertools.product((1, 5), (2, 6)):
        credit = credit_top(8, candidates=k, top=top)
        for rank in range(8):
            draws = list(itertools.combinations(range(7), k - 1))  # of these the first `rank` come before the right one
            hits = [sum(wrong < rank for wrong in draw) < top for draw in draws]
            assert credit[rank] == pytest.approx(np.mean(hits))
            places = [1 + sum(wrong < rank for wrong in draw) for draw in draws]
            assert expect_rank(np.array(rank), 8, candidates=k) == pytest.approx(np.mean(places))
    assert list(credit_top(8, candidates=8, top=5)) == [1, 1, 1, 1, 1, 0, 0, 0]
    assert credit_top(8, candidates=4, top=1).mean() == pytest.approx(chance_of_top(4, top=1))
    np.testing.assert_allclose(credit_pairwise(5), [1, 0.75, 0.5, 0.25, 0])


def test_wilson_holds_the_true_share_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    for share in (0.01, 0.3):
        held = []
        for hits in rng.binomial(200, share, size=2000):
            interval = wilson_interval(hits / 200, 200)
            held.append(interval.low <= share <= interval.high)
        assert abs(np.mean(held) - COVERAGE) < 0.03
    assert wilson_interval(0, 50).low == 0
    assert wilson_interval(1, 50).high == 1


def test_bootstrapped_bounds_are_those_of_samples_drawn_anew() -> None:
    places = np.random.default_rng(4).geometric(0.05, 300).astype(np.float64)
    worth = 1 - places / places.max()
    median, mean = bootstrap_ranks(places, worth, n_draws=400, seed=0)
    assert median.low is not None
    assert median.high is not None
    assert median.low <= np.median(places) <= median.high
    error = worth.std() / np.sqrt(300)
    assert mean.low == pytest.approx(worth.mean() - 1.96 * error, abs=error / 2)
    assert mean.high == pytest.approx(worth.mean() + 1.96 * error, abs=error / 2)


def test_p_keeps_its_level_without_an_effect_and_finds_one_that_is_planted() -> None:
    p = {0.0: [], 0.5: []}
    tables = credit_top(N, candidates=N, top=1)[None]
    for signal, found in p.items():
        for seed in range(300 if signal == 0 else 20):
            queries, candidates = noisy_pairs(N, 100 + seed, signal)
            exchanges = exchange_pairs(N, n_exchanges=99, seed=seed, fold=0)
            made = retrieve(
                queries, candidates, ties=order_ties(N, seed=seed, fold=0), exchanges=exchanges, tables=tables
            )
            found.append(float(count_as_extreme(made.null.T, tables[:, made.rank].sum(axis=1))[0]))
    assert np.mean(np.array(p[0.0]) <= 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean(np.array(p[0.5]) <= 0.05) > 0.8
