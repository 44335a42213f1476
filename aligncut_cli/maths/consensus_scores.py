"""How shared the axes are on images that the fit never saw, with intervals over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligncut_cli.maths.bootstrap import centre_on_score, draw_counts
from aligncut_cli.maths.consensus_targets import average_others, sum_present_weights
from aligncut_cli.maths.sampled_tokens import SampledTokens
from aligncut_cli.maths.slot_ridge import RowReader, map_rows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A number for each of several things, with the bounds of its bootstrap interval.

    value, low, high : (k,)
    """

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class ConsensusScores:
    """Of held-out tokens.

    shared      : (K,) per axis the variance of the slots' weighted mean over the weighted mean of their variances:
                  1 where all slots say the same, `floor` where they have nothing in common
    mean_shared : (1,) the same of all axes together
    r2          : (slots,) of each slot's prediction of the others' consensus, over all axes together
    mean_r2     : (1,) mean over slots
    axis_r2     : (slots, K) the same axis by axis, without interval
    floor       : sum_i w_i^2, `shared` of slots with equal variance that have nothing in common
    """

    shared: Interval
    mean_shared: Interval
    r2: Interval
    mean_r2: Interval
    axis_r2: Array
    floor: float


def score_consensus(
    tokens: SampledTokens,
    maps: Sequence[Tensor],
    predictors: Sequence[Tensor],
    means: Sequence[Tensor],
    weights: Array,
    *,
    reader: RowReader,
    draws: int,
    confidence: float,
    seed: int,
) -> ConsensusScores:
    """Score maps on tokens of other images than those they were fitted to.

    tokens     : held-out. With `SampledTokens.shuffle_images` `shared` is that by chance and position; R2 is then far
                 below 0, as predictions of other images are wrong: by chance it is that of a fit to shuffled images
    maps       : per slot (D_i, K) to the axes, as they are used
    predictors : per slot (D_i, K) to the consensus of the others
    means      : per slot (D_i,), of the training tokens
    weights    : (slots,) that sum to 1
    draws      : bootstrap samples of whole images
    confidence : of the intervals, such as 0.95
    """
    sums = _sum_images(tokens, maps, predictors, means, weights, reader)
    n_images = len(sums.tokens)
    counts = np.concatenate([np.ones((1, n_images)), draw_counts(n_images, n_draws=draws, seed=seed)])
    between, within = sums.count_shared(counts, weights)
    missed, varied = sums.count_errors(counts)
    slot_r2 = _explained(missed.sum(axis=2), varied.sum(axis=2))
    return ConsensusScores(
        shared=_make_interval(_divide(between, within), confidence),
        mean_shared=_make_interval(_divide(between.sum(axis=1), within.sum(axis=1))[:, None], confidence),
        r2=_make_interval(slot_r2, confidence),
        mean_r2=_make_interval(slot_r2.mean(axis=1, keepdims=True), confidence),
        axis_r2=_explained(missed[0], varied[0]),
        floor=float(np.square(weights).sum()),
    )


@dataclass(frozen=True)
class _ImageSums:
    """Sums over the tokens of each image, from which any sample of images is scored.

    present            : (images,) of R; mean and square (images, K) of R m and R m^2, m the slots' mean
    tokens             : (images, slots) counts of each slot's tokens
    own, own_square    : (slots, images, K) of the mapped features
    known              : (slots, images) counts of tokens that the slot and some other have
    target, target_square, error : (slots, images, K) of the others' consensus T, its square, and (T - prediction)^2
    """

    present: Array
    mean: Array
    square: Array
    tokens: Array
    own: Array
    own_square: Array
    known: Array
    target: Array
    target_square: Array
    error: Array

    def count_shared(self, counts: Array, weights: Array) -> tuple[Array, Array]:
        """Variance of the slots' mean and mean variance of the slots, both times R; (draws, K) each.

        counts : (draws, images) how often each image was drawn
        """
        between = counts @ self.square - _divide(np.square(counts @ self.mean), (counts @ self.present)[:, None])
        within = np.zeros_like(between)
        for number, weight in enumerate(weights):
            if weight > 0:
                spread = np.square(counts @ self.own[number])
                held = counts @ self.tokens[:, number]
                within += weight * (counts @ self.own_square[number] - _divide(spread, held[:, None]))
        return between, within

    def count_errors(self, counts: Array) -> tuple[Array, Array]:
        """Squared errors and variation of every slot's target; (draws, slots, K) each."""
        missed = np.einsum("di,sik->dsk", counts, self.error, optimize=True)
        squares = np.einsum("di,sik->dsk", counts, self.target_square, optimize=True)
        totals = np.einsum("di,sik->dsk", counts, self.target, optimize=True)
        return missed, squares - _divide(np.square(totals), (counts @ self.known.T)[:, :, None])


def _sum_images(
    tokens: SampledTokens,
    maps: Sequence[Tensor],
    predictors: Sequence[Tensor],
    means: Sequence[Tensor],
    weights: Array,
    reader: RowReader,
) -> _ImageSums:
    device = reader.device
    names, inverse = np.unique(tokens.images, return_inverse=True)
    image = torch.from_numpy(inverse).to(device)

    def by_image(values: Tensor) -> Array:
        return values.new_zeros(len(names), values.shape[1]).index_add_(0, image, values).cpu().numpy()

    n_axes = maps[0].shape[1]
    present = sum_present_weights(tokens.slots, weights, len(tokens), device=device)
    total = torch.zeros(len(tokens), n_axes, dtype=torch.float64, device=device)
    own, own_square, counts = [], [], []
    for slot, weight, mean, share in zip(tokens.slots, maps, means, weights, strict=True):
        mapped = torch.zeros_like(total)
        has = torch.zeros(len(tokens), 1, dtype=torch.float64, device=device)
        for places, part in map_rows(slot, weight, mean, reader):
            mapped[places] = part.double()
            has[places] = 1
        total += float(share) * mapped
        own.append(by_image(mapped))
        own_square.append(by_image(mapped.square()))
        counts.append(by_image(has)[:, 0])
    average = total / torch.where(present > 0, present, 1.0)[:, None]
    target, target_square, error, known = [], [], [], []
    for number, slot in enumerate(tokens.slots):
        share, mean = float(weights[number]), means[number]
        others, both = average_others(total, present, slot, maps[number], mean, share, reader)
        missed = torch.zeros_like(others)
        for places, part in map_rows(slot, predictors[number], mean, reader):
            missed[places] = (others[places] - part).square() * both[places][:, None]
        target.append(by_image(others))
        target_square.append(by_image(others.square()))
        error.append(by_image(missed))
        known.append(by_image(both[:, None].double())[:, 0])
    return _ImageSums(
        present=by_image(present[:, None])[:, 0],
        mean=by_image(present[:, None] * average),
        square=by_image(present[:, None] * average.square()),
        tokens=np.stack(counts, axis=1),
        own=np.stack(own),
        own_square=np.stack(own_square),
        known=np.stack(known),
        target=np.stack(target),
        target_square=np.stack(target_square),
        error=np.stack(error),
    )


def _divide(above: Array, below: Array) -> Array:
    """Quotient, 0 where nothing varies."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), 0.0)


def _explained(missed: Array, varied: Array) -> Array:
    """1 - missed / varied, 0 where nothing varies."""
    return np.where(varied > 0, 1 - _divide(missed, varied), 0.0)


def _make_interval(values: Array, confidence: float) -> Interval:
    """(1 + draws, k), the first row of all images once."""
    low, high = centre_on_score(values, confidence) if len(values) > 1 else (values[0], values[0])
    return Interval(values[0], low, high)
