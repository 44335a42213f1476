"""Transition probabilities between concepts of two slots (Fig. 10) and how far foreground and background differ.

Streams over images: what is kept depends on the numbers of concepts and permutations only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.concepts import count_as_extreme

Floats = NDArray[np.float64]
TOKEN_KINDS = ("all", "foreground", "background")


@dataclass(frozen=True)
class TransitionResult:
    """Transitions between A at one slot and B at another; the first axis is TOKEN_KINDS: all, foreground, background.

    probability : (kind, from, to) share of the tokens in A that are in B; a row without tokens is NaN. Rows need not
                  sum to 1: a token may land in no ball (or in two that overlap)
    nowhere     : (kind, from) share of the tokens in A that land in no ball
    counts      : (kind, from, to) tokens in A and in B
    members     : (kind, from) tokens in A
    bifurcation : how far the foreground's and the background's rows differ, see score_bifurcation; NaN if no A has
                  tokens of both
    expected    : its mean under the null hypothesis, above 0 because counts are finite
    p           : its p-value
    """

    probability: Floats
    nowhere: Floats
    counts: NDArray[np.int64]
    members: NDArray[np.int64]
    bifurcation: float
    expected: float
    p: float


class TransitionCounts:
    """Count transitions image by image, with a permutation test of foreground against background.

    Null hypothesis: foreground and background tokens of an image follow the same transitions, so that the two names
    can be exchanged. Tokens of one image are not independent, images are: each permutation exchanges the names in a
    random half of the images, all tokens of an image together. A test over tokens would find differences everywhere.
    """

    def __init__(self, n_from: int, n_to: int, *, n_permutations: int, seed: int) -> None:
        # Columns: to each B, to no ball, in A at all.
        self.tables = np.zeros((len(TOKEN_KINDS), n_from, n_to + 2), np.int64)
        self.differences = np.zeros((n_permutations, n_from, n_to + 2), np.int64)
        self.seed = seed

    def add(
        self,
        from_members: NDArray[np.bool_],
        to_members: NDArray[np.bool_],
        *,
        foreground: NDArray[np.integer] | None,
        image: int,
    ) -> None:
        """Add one image's tokens, the same tokens in the same order at both slots.

        from_members : (token, from)
        to_members   : (token, to)
        foreground   : (token,) 1 = foreground, 0 = background, negative = neither; None without masks
        image        : position of the image; with the seed it decides the permutations, in whatever order images come
        """
        landed = np.concatenate(
            [to_members, ~to_members.any(axis=1, keepdims=True), np.ones((len(to_members), 1), np.bool_)], axis=1
        ).astype(np.float64)  # exact for counts, and a matrix product of floats is a fast one

        def count(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
            return (from_members[chosen].T.astype(np.float64) @ landed[chosen]).astype(np.int64)

        self.tables[0] += count(np.ones(len(from_members), np.bool_))
        if foreground is None:
            return
        figure, ground = count(foreground == 1), count(foreground == 0)
        self.tables[1] += figure
        self.tables[2] += ground
        signs = 1 - 2 * np.random.default_rng([self.seed, image]).integers(0, 2, len(self.differences))
        self.differences += signs[:, None, None] * (figure - ground)

    def finish(self) -> TransitionResult:
        """Turn the counts into probabilities and the test."""
        members = self.tables[..., -1]
        with_nan = np.where(members > 0, members, np.nan)[..., None]
        share = self.tables[..., :-1] / with_nan
        observed = score_bifurcation(self.tables[1], self.tables[2])
        both = self.tables[1] + self.tables[2]
        null = score_bifurcation((both + self.differences) // 2, (both - self.differences) // 2)
        null = null[~np.isnan(null)]  # a permutation that leaves every A with one kind only says nothing
        testable = bool(np.isfinite(observed)) and len(null) > 0
        return TransitionResult(
            probability=share[..., :-1],
            nowhere=share[..., -1],
            counts=self.tables[..., :-2],
            members=members,
            bifurcation=float(observed),
            expected=float(null.mean()) if testable else float("nan"),
            p=float(count_as_extreme(null, observed)) if testable else float("nan"),
        )


def score_bifurcation(figure: NDArray[np.int64], ground: NDArray[np.int64]) -> Floats:
    """Mean distance between the foreground's and the background's rows.

    The distance of two rows is half the sum of |difference of probability| over all B and over "no ball", the total
    variation distance: 0 if both go the same ways, 1 if they never meet (more only where balls overlap). Rows are
    weighted by their tokens of both kinds; rows with tokens of only one kind say nothing and are left out.

    figure, ground : (..., from, to + 2) tables of TransitionCounts
    returns        : (...), NaN where every row is left out
    """
    in_figure, in_ground = figure[..., -1], ground[..., -1]
    usable = (in_figure > 0) & (in_ground > 0)
    p_figure = figure[..., :-1] / np.maximum(in_figure, 1)[..., None]
    p_ground = ground[..., :-1] / np.maximum(in_ground, 1)[..., None]
    distance = 0.5 * np.abs(p_figure - p_ground).sum(axis=-1)
    weight = np.where(usable, in_figure + in_ground, 0)
    total = weight.sum(axis=-1)
    mean: Floats = np.where(total > 0, (weight * distance).sum(axis=-1) / np.maximum(total, 1), np.nan)
    return mean
