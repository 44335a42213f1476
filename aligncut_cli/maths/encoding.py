"""The encoding model: maps into the universal space and the linear readout of the brain (Eq. 1, 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from aligncut_cli.maths.products import product

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AlignmentMaps:
    """A fitted encoding model, in the units of the features and responses as they were given.

    weights : per model (layers, D_i, D'), W of Eq. 1
    readout : (D', voxels), beta of Eq. 2
    bias    : (voxels,), eps of Eq. 2
    """

    weights: tuple[Tensor, ...]
    readout: Tensor
    bias: Tensor


def predict_from_pooled(pooled: Sequence[Tensor], maps: AlignmentMaps) -> Tensor:
    """Predicted responses (Eq. 2) from features averaged over tokens.

    The maps are linear, so averaging over tokens before them or after gives the same.

    pooled  : per model (layers, images, D_i)
    returns : (images, voxels)
    """
    return average_slots(pooled, maps.weights) @ maps.readout + maps.bias


def average_slots(pooled: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """1/n sum_i V_i W_i (the bracket of Eq. 2), without a gradient.

    pooled  : per model (layers, images, D_i)
    weights : per model (layers, D_i, D')
    returns : (images, D')
    """
    n_slots = sum(len(weight) for weight in weights)
    total: Tensor | None = None
    for features, weight in zip(pooled, weights, strict=True):
        # One GEMM per model: slots side by side in the channel axis, so the sum over slots is inside it.
        side_by_side = features.transpose(0, 1).reshape(features.shape[1], -1)
        flat = product(side_by_side, weight.reshape(-1, weight.shape[-1]))
        total = flat if total is None else total + flat
    if total is None:
        raise ValueError("there is no slot")
    return total / n_slots


def iterate_slots(pooled: Sequence[npt.NDArray[np.float32]]) -> Iterator[tuple[int, int, npt.NDArray[np.float32]]]:
    """Yield (model, layer, (images, D) features) of every slot, models in order."""
    for model, features in enumerate(pooled):
        for layer in range(len(features)):
            yield model, layer, features[layer]
