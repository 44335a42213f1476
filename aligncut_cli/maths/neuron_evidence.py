"""Which neurons a retrieval rests on: their additive shares of what sets the right image apart, and subsets of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Double = NDArray[np.float64]
Index = NDArray[np.int64]


def share_evidence(queries: Floats, candidates: Floats, weight: Floats | None) -> Double:
    """Mean over queries of what each neuron adds to the margin of the right candidate over the mean of all.

    The similarity is linear in the neurons, so their shares add up to the margin.

    queries    : (n, neurons), each scaled by the length of what it is mapped to
    candidates : (n, d), unit rows
    weight     : (neurons, d) of the map; None where candidates are predicted responses, d = neurons
    returns    : (neurons,)
    """
    apart = candidates - candidates.mean(axis=0)
    mapped = apart if weight is None else apart @ weight.T
    return np.asarray((queries * mapped).mean(axis=0), dtype=np.float64)


def count_effective(evidence: Double) -> float:
    """Effective number of neurons: the participation ratio (sum e)^2 / sum e^2 of their evidence, negative as none.

    evidence : (neurons,)
    returns  : 1 where one neuron carries all, the number of neurons where all carry the same, 0 where none does
    """
    carried = np.maximum(evidence, 0)
    square = float(np.square(carried).sum())
    return float(carried.sum() ** 2 / square) if square > 0 else 0.0


def draw_subsets(n_neurons: int, size: int, *, n_subsets: int, seed: int) -> Index:
    """Draw random sets of neurons without replacement, (subsets, size), each set ascending."""
    draws = [np.random.default_rng([seed, 14, size, k]).permutation(n_neurons)[:size] for k in range(n_subsets)]
    return np.sort(np.stack(draws), axis=1)
