"""How much of a response repeats: the explainable share of its variance, from two halves of the repeats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.response_scores import score_r

Floats = NDArray[np.float32]


def halve_repeats(image_of_row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Say for each row whether it is in the first or second half of its image's rows, taken in turns: 0, 1, 0, ...

    image_of_row : (rows,) the image of each row, -1 where it is not used
    returns      : (rows,) 0 or 1; -1 where it is not used, or its image has one row only
    """
    turns: dict[int, int] = {}
    counts = np.bincount(image_of_row[image_of_row >= 0])
    half = np.full(len(image_of_row), -1, dtype=np.int64)
    for row, image in enumerate(image_of_row.tolist()):
        if image >= 0 and counts[image] > 1:
            turns[image] = turns.get(image, 0) + 1
            half[row] = (turns[image] - 1) % 2
    return half


def split_half_ceiling(first: Floats, second: Floats) -> Floats:
    """Explainable share of the variance of the average over all repeats, by Spearman and Brown: 2 r / (1 + r).

    first, second : (images, neurons) averages of either half
    returns       : (neurons,) in [0, 1]; 0 where the halves do not agree
    """
    r = np.maximum(score_r(first, second).astype(np.float64), 0)
    return np.asarray(2 * r / (1 + r), dtype=np.float32)
