"""Transition probabilities between concepts of two slots (Fig. 10) and how far foreground and background differ.

Streams over images: what is kept depends on the numbers of concepts and permutations, and two bits a token of masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from aligncut_cli.maths.permutations import ExchangedMasks, count_as_extreme

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
    expected    : its mean with the masks of other images, above 0 because counts are finite
    p           : its p-value
    null        : (permutation,) its values with the masks of other images
    """

    probability: Floats
    nowhere: Floats
    counts: NDArray[np.int64]
    members: NDArray[np.int64]
    bifurcation: float
    expected: float
    p: float
    null: Floats


class TransitionCounts:
    """Count transitions image by image, with a permutation test of foreground against background.

    Null hypothesis: the masks say nothing of what the tokens do, so that any image's mask could be another's, see
    `ExchangedMasks`. Where they only say which concepts tokens are in, and not where these go from there, the test
    still holds its level (tests/bench/levels.py), by the weights of `score_bifurcation`.

    masks : of the images, and their exchanges; None where there are no masks
    """

    def __init__(self, n_from: int, n_to: int, *, masks: ExchangedMasks | None) -> None:
        # Columns: to each B, to no ball, in A at all.
        self.masks, self.shape = masks, (n_from, n_to + 2)
        self.every = np.zeros(self.shape, np.int64)
        self.sides = np.zeros((1 if masks is None else 1 + masks.n_permutations, 2, *self.shape), np.int64)

    def add(self, from_members: NDArray[np.bool_], to_members: NDArray[np.bool_], *, image: int) -> None:
        """Add one image's tokens, the same tokens in the same order at both slots.

        from_members : (token, from)
        to_members   : (token, to)
        image        : position of the image, which decides its mask in every permutation; images may come in any order
        """
        lost, every = ~to_members.any(axis=1, keepdims=True), np.ones((len(to_members), 1), np.bool_)
        landed = np.concatenate([to_members, lost, every], axis=1)
        # Of each token in which cells of the table it counts; float32 holds counts of tokens exactly, and is fast.
        cells = (from_members[:, :, None] & landed[:, None, :]).reshape(len(landed), self.every.size).astype(np.float32)
        self.every += cells.sum(axis=0).astype(np.int64).reshape(self.shape)
        if self.masks is not None:
            chosen = self.masks.read(image).reshape(2 * len(self.sides), len(cells)).astype(np.float32)
            self.sides += (chosen @ cells).astype(np.int64).reshape(self.sides.shape)

    def finish(self) -> TransitionResult:
        """Turn the counts into probabilities and the test."""
        tables = np.concatenate([self.every[None], self.sides[0]])
        members = tables[..., -1]
        with_nan = np.where(members > 0, members, np.nan)[..., None]
        share = tables[..., :-1] / with_nan
        scores = score_bifurcation(self.sides[:, 0], self.sides[:, 1])
        observed, null = scores[0], scores[1:]
        known = null[~np.isnan(null)]  # a permutation that leaves every A with one kind only says nothing
        testable = bool(np.isfinite(observed)) and len(known) > 0
        return TransitionResult(
            probability=share[..., :-1],
            nowhere=share[..., -1],
            counts=tables[..., :-2],
            members=members,
            bifurcation=float(observed),
            expected=float(known.mean()) if testable else float("nan"),
            p=float(count_as_extreme(null, observed)) if testable else float("nan"),
            null=null,
        )


def score_bifurcation(figure: NDArray[np.int64], ground: NDArray[np.int64]) -> Floats:
    """Mean distance between the foreground's and the background's rows.

    The distance of two rows is half the sum of |difference of probability| over all B and over "no ball", the total
    variation distance: 0 if both go the same ways, 1 if they never meet (more only where balls overlap). Rows are
    weighted by how exactly their difference is known, 1 / (1 / foreground tokens + 1 / background tokens), so that
    concepts with hardly any token of one kind, whose rows differ by chance, weigh little; those with none say nothing.

    figure, ground : (..., from, to + 2) tables of TransitionCounts
    returns        : (...), NaN where every row is left out
    """
    in_figure, in_ground = figure[..., -1], ground[..., -1]
    p_figure = figure[..., :-1] / np.maximum(in_figure, 1)[..., None]
    p_ground = ground[..., :-1] / np.maximum(in_ground, 1)[..., None]
    distance = 0.5 * np.abs(p_figure - p_ground).sum(axis=-1)
    weight = in_figure * in_ground / np.maximum(in_figure + in_ground, 1)  # 0 where one kind is missing
    total = weight.sum(axis=-1)
    mean: Floats = np.where(total > 0, (weight * distance).sum(axis=-1) / np.where(total > 0, total, 1), np.nan)
    return mean


def match_identities(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Follow concepts from layer to layer: each goes on in the one of the next layer that most of all tokens lead to.

    Every step is the matching, one to one, that keeps most tokens.

    counts  : (step, from, to) tokens
    returns : (layer, concept) the concept of the first layer that each goes on from
    """
    identity = [np.arange(counts.shape[1])]
    for step in counts:
        before, after = linear_sum_assignment(step, maximize=True)
        following = np.empty(len(identity[0]), np.int64)
        following[after] = identity[-1][before]
        identity.append(following)
    return np.stack(identity).astype(np.int64)
