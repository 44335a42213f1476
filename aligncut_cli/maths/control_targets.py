"""Responses that cannot know the images: controls that the alignment's story must survive."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]


def shuffle_pairs(n_images: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Permutation that breaks the image-response pairs and keeps everything else.

    returns : (n_images,) for each image the row whose response it is given; none keeps its own (if n > 1)
    """
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(n_images)
    # One random cycle: nobody keeps their own response.
    rows = np.empty(n_images, dtype=np.int64)
    rows[order] = np.roll(order, 1)
    return rows


def draw_random_targets(responses: Float, rows: npt.NDArray[np.int64], *, seed: int) -> Float:
    """Gaussian targets with the responses' mean and covariance, so with the same spectrum.

    Row = mean + g Y_c / sqrt(n - 1) with g ~ N(0, I_n) has covariance Y_c' Y_c / (n - 1), without
    a voxels x voxels matrix. A row depends on the seed and its own number, not on the rows asked for with it.

    responses : (n, voxels), n >= 2
    rows      : (b,) which target rows to draw
    returns   : (b, voxels)
    """
    n = len(responses)
    mean = responses.mean(axis=0, dtype=np.float64)
    draws = np.stack([np.random.default_rng([seed, 2, int(row)]).standard_normal(n) for row in rows])
    # g (Y - 1 mean') = g Y - sum(g) mean': the centred copy of Y need not exist.
    mixed = draws.astype(np.float32) @ np.asarray(responses, dtype=np.float32)
    targets = (mixed - draws.sum(axis=1, keepdims=True) * mean) / np.sqrt(n - 1) + mean
    return np.asarray(targets, dtype=np.float32)
