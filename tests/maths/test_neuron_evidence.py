"""Evidence of single neurons against a loop over pairs, and the effective number of them in planted worlds."""

from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.maths.neuron_evidence import count_effective, draw_subsets, share_evidence
from aligncut_cli.maths.retrieval import standardize_rows


@pytest.mark.parametrize("mapped", [False, True])
def test_shares_add_up_to_the_margin_and_are_those_of_a_loop(mapped: bool) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4)).astype(np.float32) if mapped else None
    candidates = standardize_rows(rng.standard_normal((9, 4 if mapped else 6)))
    queries = rng.standard_normal((9, 6)).astype(np.float32)
    evidence = share_evidence(queries, candidates, weight)
    vectors = np.eye(6) if weight is None else weight
    slow = np.zeros(6)
    for i in range(9):
        for k in range(6):
            own = queries[i, k] * vectors[k] @ candidates[i]
            slow[k] += (own - np.mean([queries[i, k] * vectors[k] @ other for other in candidates])) / 9
    np.testing.assert_allclose(evidence, slow, atol=1e-6)
    similarity = (queries @ vectors) @ candidates.T
    assert evidence.sum() == pytest.approx((np.diagonal(similarity) - similarity.mean(axis=1)).mean(), abs=1e-6)


def test_the_effective_number_counts_those_that_carry() -> None:
    assert count_effective(np.array([1.0, 0, 0, 0])) == 1
    assert count_effective(np.array([2.0, 2, 2, 2])) == 4
    assert count_effective(np.array([1.0, 1, -0.5, -3])) == 2
    assert count_effective(np.zeros(5)) == 0


def test_random_subsets_have_their_size_and_differ() -> None:
    subsets = draw_subsets(20, 5, n_subsets=30, seed=1)
    assert subsets.shape == (30, 5)
    assert all(len(set(row)) == 5 for row in subsets.tolist())
    assert len(set(map(tuple, subsets.tolist()))) > 25
    np.testing.assert_array_equal(subsets[:7], draw_subsets(20, 5, n_subsets=7, seed=1))
