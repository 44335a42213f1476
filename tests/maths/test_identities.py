"""Concepts followed from layer to layer: against every matching, and a planted permutation that is found."""

from __future__ import annotations

import itertools

import numpy as np

from aligncut_cli.maths.transitions import match_identities


def test_a_concept_goes_on_where_most_tokens_of_all_go() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (3, 4, 4))
    found = match_identities(counts)
    assert found[0].tolist() == [0, 1, 2, 3]
    for step, flow in enumerate(counts):
        kept = sum(flow[a, b] for a in range(4) for b in range(4) if found[step, a] == found[step + 1, b])
        assert kept == max(sum(flow[a, order[a]] for a in range(4)) for order in itertools.permutations(range(4)))


def test_planted_permutations_are_undone() -> None:
    rng = np.random.default_rng(1)
    orders = [np.arange(5), *(rng.permutation(5) for _ in range(6))]
    flows = []
    for before, after in itertools.pairwise(orders):
        flow = rng.integers(0, 10, (5, 5))
        for concept in range(5):
            flow[np.flatnonzero(before == concept)[0], np.flatnonzero(after == concept)[0]] += 100
        flows.append(flow)
    np.testing.assert_array_equal(match_identities(np.array(flows)), orders)
