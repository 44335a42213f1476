"""How well responses are predicted: per voxel, per ROI, and against the noise ceiling."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]


def score_r2(predicted: Float, measured: Float) -> Float:
    """Coefficient of determination of every voxel, 1 - SSE / SST; 0 where the measured voxel is constant.

    predicted, measured : (images, voxels)
    returns             : (voxels,), at most 1 and unbounded below
    """
    error = np.square(measured - predicted).sum(axis=0, dtype=np.float64)
    total = np.square(measured - measured.mean(axis=0)).sum(axis=0, dtype=np.float64)
    constant = _is_constant(measured)
    return np.where(constant, 0.0, 1 - error / np.where(constant, 1.0, total)).astype(np.float32)


def score_r(predicted: Float, measured: Float) -> Float:
    """Pearson correlation of every voxel; 0 where the prediction or the voxel is constant.

    predicted, measured : (images, voxels)
    returns             : (voxels,) in [-1, 1]
    """
    constant = _is_constant(predicted) | _is_constant(measured)
    a = predicted - predicted.mean(axis=0)
    b = measured - measured.mean(axis=0)
    product = (a * b).sum(axis=0, dtype=np.float64)
    scale = np.sqrt(np.square(a).sum(axis=0, dtype=np.float64) * np.square(b).sum(axis=0, dtype=np.float64))
    r = product / np.where(constant | (scale == 0), 1.0, scale)
    return np.where(constant, 0.0, r).clip(-1, 1).astype(np.float32)


def average_over_rois(
    score: Float, rois: Mapping[str, npt.NDArray[np.bool_]], *, ceiling: Float | None = None
) -> dict[str, float | None]:
    """Mean score of every ROI and of `all` voxels; None for a ROI without voxels.

    score   : (voxels,)
    rois    : name -> (voxels,)
    ceiling : (voxels,) if given, mean score / mean ceiling, so that voxels near zero ceiling cannot dominate
    """
    result: dict[str, float | None] = {}
    for name, mask in {**rois, "all": np.ones(len(score), dtype=bool)}.items():
        if not mask.any():
            result[name] = None
            continue
        mean = float(score[mask].mean(dtype=np.float64))
        if ceiling is None:
            result[name] = mean
        else:
            highest = float(ceiling[mask].mean(dtype=np.float64))
            result[name] = mean / highest if highest > 0 else None
    return result


def _is_constant(values: Float) -> npt.NDArray[np.bool_]:
    return np.asarray(values.max(axis=0) == values.min(axis=0))
