"""Seeded split of images into those fitted, those that decide when to stop, and those that are scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aligncut_cli.errors import BadInput

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageSplit:
    """Disjoint, sorted rows: train fits, validation stops and selects, test is only scored."""

    train: Index
    validation: Index
    test: Index


def split_images(n_images: int, *, validation_share: float, test_share: float, seed: int) -> ImageSplit:
    """Split at random; every part has at least two images.

    n_images : at least 6
    """
    n_validation = max(2, round(n_images * validation_share))
    n_test = max(2, round(n_images * test_share))
    if n_images - n_validation - n_test < 2:
        raise BadInput(f"{n_images} images are too few to fit, stop and score on separate ones.", do="Use at least 6.")
    order = np.random.default_rng([seed, 0]).permutation(n_images).astype(np.int64)
    validation, test, train = np.split(order, [n_validation, n_validation + n_test])
    return ImageSplit(np.sort(train), np.sort(validation), np.sort(test))


def split_into_folds(n_images: int, *, n_folds: int, validation_share: float, seed: int) -> list[ImageSplit]:
    """Split several times, so that every image is in one test part; every part has at least two images.

    n_folds : at least 2
    """
    order = np.random.default_rng([seed, 0]).permutation(n_images).astype(np.int64)
    n_validation = max(2, round(n_images * validation_share))
    splits = []
    for fold in range(n_folds):
        test = order[fold::n_folds]
        rest = np.setdiff1d(order, test)
        shuffled = np.random.default_rng([seed, 0, fold + 1]).permutation(rest)
        validation, train = shuffled[:n_validation], shuffled[n_validation:]
        if min(len(test), len(train)) < 2:
            raise BadInput(f"{n_images} images are too few for {n_folds} folds.", do="Ask for fewer --folds.")
        splits.append(ImageSplit(np.sort(train), np.sort(validation), np.sort(test)))
    return splits
