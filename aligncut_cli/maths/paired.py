"""A paired test between two runs on the same images: how often signs given at random reach the mean difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PairedTest:
    """What is known of the differences of two runs.

    difference : mean over images of the second less the first
    error      : its standard error
    n_images   : that both have a score of
    p          : two-sided; never below 1 / (1 + draws)
    """

    difference: float
    error: float
    n_images: int
    p: float


def compare_paired(first: NDArray[np.floating], second: NDArray[np.floating], *, n_draws: int, seed: int) -> PairedTest:
    """Test whether two runs score the same images alike.

    Under the null each image's difference could as well have the other sign, so the test holds its level however the
    scores are distributed, and however unlike each other the images are.

    first, second : (image,) scores of the same images; NaN where there is none
    n_draws       : of random signs
    returns       : NaN and p = 1 where no image is left
    """
    values = np.asarray(second, np.float64) - np.asarray(first, np.float64)
    values = values[np.isfinite(values)]
    count = len(values)
    if not count:
        return PairedTest(float("nan"), float("nan"), 0, 1.0)
    rng = np.random.default_rng(seed)
    observed = abs(values.mean())
    reached = 0
    for start in range(0, n_draws, BLOCK):
        signs = rng.integers(0, 2, (min(BLOCK, n_draws - start), count)) * 2 - 1
        reached += int((np.abs(signs @ values) / count >= observed * (1 - ROUNDING)).sum())
    error = float(values.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return PairedTest(float(values.mean()), error, count, (1 + reached) / (1 + n_draws))


BLOCK = 256
"""Draws at a time."""
ROUNDING = 1e-12
"""Draws that differ from what was observed by rounding alone reach it."""
