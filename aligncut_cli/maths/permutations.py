"""Tests by exchange: masks that are given to other images, p-values, and their correction for the highest of several.

What is kept of the masks is two bits a token, and of the exchanges one run of images at a time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
IMAGES_EXCHANGED = 8192
"""Images among which masks are exchanged; more are cut into runs of so many, which bounds memory and stays exact."""


class ExchangedMasks:
    """Which image's mask goes with which image: the true masks first, then one assignment for each permutation.

    Under the null hypothesis that masks say nothing of what the tokens do, every assignment of masks to images is
    as likely as the true one. Whole masks are exchanged, so tokens of an image may depend on each other in any way,
    images may have habits of their own, and foreground may be rare: all assignments have the same masks. The
    assignments depend on the seed and on the number of images only, so that several counts over the same images
    (steps along layers, with masks rounded to any grid) see the same ones.

    foreground     : (image, token) 1 = foreground, 0 = background, negative = neither
    n_permutations : assignments beside the true one
    """

    def __init__(self, foreground: NDArray[np.integer], *, n_permutations: int, seed: int) -> None:
        self.n_images, self.n_tokens = foreground.shape
        self.n_permutations, self.seed = n_permutations, seed
        self._bits = np.stack([np.packbits(foreground == side, axis=1) for side in (1, 0)], axis=1)
        self._run, self._sources = -1, np.empty((0, 0), np.int32)

    def find_sources(self, image: int) -> NDArray[np.int32]:
        """Return whose mask an image gets, (1 + n_permutations,); the first is its own."""
        run, place = divmod(image, IMAGES_EXCHANGED)
        first = run * IMAGES_EXCHANGED
        if run != self._run:
            own = np.arange(first, min(first + IMAGES_EXCHANGED, self.n_images), dtype=np.int32)
            every = np.tile(own, (1 + self.n_permutations, 1))
            every[1:] = np.random.default_rng([self.seed, run]).permuted(every[1:], axis=1)
            self._run, self._sources = run, np.ascontiguousarray(every.T)
        sources: NDArray[np.int32] = self._sources[place]
        return sources

    def read(self, image: int) -> NDArray[np.uint8]:
        """Return foreground and background of an image under every assignment, 1 or 0: (1 + permutations, 2, token)."""
        return np.unpackbits(self._bits[self.find_sources(image)], axis=2, count=self.n_tokens)


def count_as_extreme(null: Floats, observed: Floats | np.float64) -> Floats:
    """p-value of a test by exchange: (1 + exchanges at least as high) / (1 + exchanges).

    null     : (exchange, ...); NaN, which nothing is said by, counts as low
    observed : (...); NaN gives NaN
    """
    slack = 1e-12 * (1 + np.abs(observed))  # the identity among the permutations must count as equal
    p: Floats = (1 + (null >= observed - slack).sum(axis=0)) / (1 + len(null))
    return np.where(np.isnan(observed), np.nan, p)


def correct_for_highest(null: Floats, observed: Floats) -> Floats:
    """p-values of several scores, corrected for having looked at all of them (Westfall and Young's max T).

    Each score is measured in deviations of its own values under all exchanges, the observed one among them, so that
    noisy scores do not drown the others; then the highest of each exchange is what a score has to beat. The chance
    that any of these p is at most alpha is at most alpha where the null hypothesis holds for all. The same exchange
    must have been made for all scores.

    null     : (exchange, score); NaN counts as low
    observed : (score,); NaN gives NaN
    """
    every = np.concatenate([observed[None], null]).astype(np.float64)
    known = ~np.isnan(every)
    count = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, every - np.where(known, every, 0).sum(axis=0) / count, 0)
    spread = np.sqrt((centred**2).sum(axis=0) / count)
    in_deviations = np.where(known, centred / np.where(spread > 0, spread, 1), -np.inf)
    testable = known[0]
    highest = in_deviations[:, testable].max(axis=1, initial=-np.inf)
    return count_as_extreme(highest[1:, None], np.where(testable, in_deviations[0], np.nan))
