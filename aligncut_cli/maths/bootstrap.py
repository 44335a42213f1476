"""How sure a score on held-out images is: the images are drawn anew, with replacement (Efron 1979)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

# Voxels scored at a time, so that memory does not grow with them.
_VOXELS_PER_BLOCK = 4096
COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """Where the score may lie with 95 % confidence, None where there is none."""

    low: float | None
    high: float | None


@dataclass(frozen=True)
class RoiIntervals:
    """Of the mean score over the voxels of every ROI, and of `all`."""

    r2: Mapping[str, Interval]
    r: Mapping[str, Interval]


def draw_counts(n_images: int, *, n_draws: int, seed: int) -> Double:
    """How often each draw takes each image, (draws, images); every row sums to the number of images."""
    rng = np.random.default_rng([seed, 7])
    return rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=n_draws).astype(np.float64)


def bootstrap_rois(
    predicted: Float, measured: Float, rois: Mapping[str, npt.NDArray[np.bool_]], *, n_draws: int, seed: int
) -> RoiIntervals:
    """Intervals of the mean R^2 and r over each ROI's voxels, over images drawn anew.

    Both scores follow from weighted sums over images, so a draw costs a row of a matrix product and no copy. A draw has
    fewer different images, which lowers R^2; so an interval is laid about the score of all images (`centre_on_score`).

    predicted, measured : (images, voxels)
    rois                : name -> (voxels,)
    """
    once = np.ones((1, len(measured)))
    counts = np.concatenate([once, draw_counts(len(measured), n_draws=n_draws, seed=seed)])
    n_voxels = measured.shape[1]
    masks = {**rois, "all": np.ones(n_voxels, np.bool_)}
    sums = {name: np.zeros((2, 1 + n_draws)) for name in masks}
    for start in range(0, n_voxels, _VOXELS_PER_BLOCK):
        part = slice(start, start + _VOXELS_PER_BLOCK)
        scores = _score_draws(counts, predicted[:, part].astype(np.float64), measured[:, part].astype(np.float64))
        for name, mask in masks.items():
            for total, score in zip(sums[name], scores, strict=True):
                total += score[:, mask[part]].sum(axis=1)
    sizes = {name: int(mask.sum()) for name, mask in masks.items()}
    both = [
        {name: _central(sums[name][kind] / size) if size else Interval(None, None) for name, size in sizes.items()}
        for kind in range(2)
    ]
    return RoiIntervals(*both)


def _score_draws(counts: Double, predicted: Double, measured: Double) -> tuple[Double, Double]:
    """R^2 and r of every draw and voxel, (draws, voxels); 0 where a draw's responses or predictions are constant."""
    n = counts.sum(axis=1, keepdims=True)
    y, p = measured - measured.mean(axis=0), predicted - predicted.mean(axis=0)  # sums of small numbers cancel less
    sum_y, sum_p = counts @ y, counts @ p
    var_y, var_p = (np.maximum(counts @ v**2 - s**2 / n, 0) for v, s in ((y, sum_y), (p, sum_p)))
    shared = counts @ (y * p) - sum_y * sum_p / n
    error = counts @ (measured - predicted) ** 2
    tiny_y, tiny_p = (1e-12 * (counts @ v**2) for v in (y, p))
    varies, both = var_y > tiny_y, (var_y > tiny_y) & (var_p > tiny_p)
    r2 = np.where(varies, 1 - error / np.where(varies, var_y, 1), 0)
    r = np.where(both, shared / np.sqrt(np.where(both, var_y * var_p, 1)), 0)
    return r2, np.clip(r, -1, 1)


def centre_on_score(values: Double, confidence: float) -> tuple[Double, Double]:
    """Low and high of scores: the central share of the draws, moved so that their median is the score of all images.

    values : (1 + draws, ...), the first of all images once
    """
    edge = (1 - confidence) / 2
    low, median, high = np.quantile(values[1:], [edge, 0.5, 1 - edge], axis=0)
    return values[0] + low - median, values[0] + high - median


def _central(values: Double) -> Interval:
    low, high = centre_on_score(values, COVERAGE)
    return Interval(float(low), float(high))
