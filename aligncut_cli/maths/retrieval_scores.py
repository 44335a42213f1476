"""What ranks are worth: top-1 and top-5 among so many candidates, pairwise choice, median rank; bounds and chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom, norm

from aligncut_cli.maths.bootstrap import COVERAGE, Interval, centre_on_score

Double = NDArray[np.float64]
Index = NDArray[np.int64]

TOPS = {"top1": 1, "top5": 5}
PAIRWISE, MEDIAN = "pairwise", "median_rank"


def credit_top(n: int, *, candidates: int, top: int) -> Double:
    """Chance that the right one is among the first `top` when the others are drawn anew from all wrong ones.

    Of n - 1 wrong candidates `rank` come before the right one, and `candidates` - 1 are drawn: at most top - 1 of
    those may be among the drawn, a hypergeometric tail. With all candidates it is 1 or 0.

    n       : candidates that there are
    returns : (n,) by rank from 0
    """
    tail: Double = hypergeom.cdf(top - 1, n - 1, np.arange(n), candidates - 1)
    return tail


def credit_pairwise(n: int) -> Double:
    """Share of the wrong candidates that come after the right one, (n,) by rank: a choice between two."""
    return (n - 1 - np.arange(n)) / max(1, n - 1)


def expect_rank(rank: Index, n: int, *, candidates: int) -> Double:
    """Expected place, from 1, of the right one among so many candidates drawn from n; rank from 0, any shape."""
    place: Double = 1 + rank * (candidates - 1) / max(1, n - 1)
    return place


def chance_of_top(candidates: int, *, top: int) -> float:
    """Return the share of queries that guessing puts among the first `top`."""
    return min(top, candidates) / candidates


def wilson_interval(share: float, n: int, *, confidence: float = COVERAGE) -> Interval:
    """Interval of a share of n independent successes (Wilson 1927); wider than need be where parts of one are counted.

    share : in [0, 1]
    """
    z = float(norm.ppf(0.5 + confidence / 2))
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def bootstrap_ranks(places: Double, worth: Double, *, n_draws: int, seed: int) -> tuple[Interval, Interval]:
    """Intervals of the median place and of the mean worth, over images drawn anew with replacement.

    places, worth : (images,)
    """
    rng = np.random.default_rng([seed, 13])
    values = np.empty((1 + n_draws, 2))
    values[0] = np.median(places), worth.mean()
    for draw in range(n_draws):
        rows = rng.integers(0, len(places), len(places))
        values[1 + draw] = np.median(places[rows]), worth[rows].mean()
    low, high = centre_on_score(values, COVERAGE)
    bounds = np.clip([low, high], [1, 0], [np.inf, 1])
    return Interval(*map(float, bounds[:, 0])), Interval(*map(float, bounds[:, 1]))


def top_by_candidates(rank: Index, sizes: Index, numbers: Sequence[int], *, top: int = 1) -> Double:
    """Share of images among the first `top` of so many candidates, drawn from those of their fold; (numbers,).

    rank    : (images,) from 0
    sizes   : (images,) candidates in each image's fold
    numbers : of candidates; a fold that has fewer is taken whole
    """
    shares = np.zeros(len(numbers))
    for n in np.unique(sizes):
        own = rank[sizes == n]
        for at, number in enumerate(numbers):
            shares[at] += credit_top(int(n), candidates=min(number, int(n)), top=top)[own].sum()
    return shares / len(rank)
