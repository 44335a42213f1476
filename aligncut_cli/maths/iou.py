"""Intersection over union from pixel counts, its mean as PASCAL VOC defines it, and its value by chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def compute_iou(correct: NDArray[np.generic], predicted: NDArray[np.generic], truth: NDArray[np.generic]) -> Floats:
    """Intersection over union per class.

    correct, predicted, truth : (..., n_classes) pixels labelled right, labelled at all, and in the mask
    returns                   : (..., n_classes), NaN where a class is neither in the mask nor predicted
    """
    union = np.asarray(predicted + truth - correct, np.float64)  # type: ignore[operator]
    absent = union <= 0
    return np.where(absent, np.nan, correct / np.where(absent, 1.0, union))


def mean_over_classes(iou: Floats) -> Floats:
    """Mean IoU over the classes with a union, so that an absent class does not change the mean.

    iou     : (..., n_classes), NaN = absent
    returns : (...), NaN where every class is absent
    """
    present = ~np.isnan(iou)
    n_present = present.sum(axis=-1)
    total = np.where(present, iou, 0.0).sum(axis=-1)
    mean: Floats = np.where(n_present > 0, total / np.maximum(n_present, 1), np.nan)
    return mean


def score_confusion(confusion: Counts) -> tuple[Floats, Floats]:
    """Mean IoU and IoU per class.

    confusion : (..., n_classes true, n_classes predicted) pixels
    """
    correct = np.diagonal(confusion, axis1=-2, axis2=-1)
    iou = compute_iou(correct, confusion.sum(axis=-2), confusion.sum(axis=-1))
    return mean_over_classes(iou), iou


def expect_iou_by_chance(predicted: NDArray[np.generic], truth: NDArray[np.generic]) -> Floats:
    """IoU of labels that are placed without regard to the mask but are as frequent as the ones predicted.

    If a share q of all pixels is labelled c and a share p is c, independently, the expected intersection is the share
    p q and the union p + q - p q. Constant predictions are the case q = 1.

    predicted, truth : (..., n_classes) pixels
    returns          : (..., n_classes), NaN where both are zero
    """
    total = np.asarray(truth.sum(axis=-1, keepdims=True), np.float64)
    by_chance = predicted / np.maximum(total, 1) * truth
    return compute_iou(by_chance, predicted, truth)


def count_confusion(
    predicted: NDArray[np.integer], truth: NDArray[np.integer], *, n_predicted: int, n_true: int
) -> Counts:
    """Count pixels by true and predicted label.

    predicted : (n,) labels >= 0, or negative = no label, which counts nowhere but is part of the truth's pixels
    truth     : (n,) class indices, negative = ignored
    returns   : (n_true, n_predicted + 1); the last column counts the pixels without a label
    """
    valid = truth >= 0
    label = np.where(predicted < 0, n_predicted, predicted)[valid].astype(np.intp)
    code = truth[valid].astype(np.intp) * (n_predicted + 1) + label
    counts = np.bincount(code, minlength=n_true * (n_predicted + 1))
    return counts.reshape(n_true, n_predicted + 1).astype(np.int64, copy=False)
