"""Responses in units of their deviation over the training images, and a readout of them in their own units again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from aligncut_cli.maths.encoding import AlignmentMaps

Float = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]

# Voxels z-scored at a time, so that float64 copies stay small.
_VOXELS_PER_BLOCK = 1024


def standardize_responses(responses: Float, train: Index) -> tuple[Float, Float]:
    """Z-score responses in place by the training images' mean and deviation, voxel by voxel.

    responses : (images, voxels), changed; a voxel constant over the training images is only centred
    returns   : mean and deviation, (voxels,) each
    """
    n_voxels = responses.shape[1]
    mean, deviation = np.empty(n_voxels, dtype=np.float32), np.empty(n_voxels, dtype=np.float32)
    for start in range(0, n_voxels, _VOXELS_PER_BLOCK):
        part = slice(start, start + _VOXELS_PER_BLOCK)
        block = responses[train, part].astype(np.float64)
        mean[part], deviation[part] = block.mean(axis=0), block.std(axis=0)
        deviation[part][block.max(axis=0) == block.min(axis=0)] = 1
        responses[:, part] -= mean[part]
        responses[:, part] /= deviation[part]
    return mean, deviation


def restore_units(maps: AlignmentMaps, mean: Float, deviation: Float) -> AlignmentMaps:
    """Turn a readout of z-scored responses into one of the responses as they were.

    mean, deviation : (voxels,) from standardize_responses
    """
    scale = torch.from_numpy(deviation).to(maps.readout)
    return AlignmentMaps(maps.weights, maps.readout * scale, maps.bias * scale + torch.from_numpy(mean).to(maps.bias))
