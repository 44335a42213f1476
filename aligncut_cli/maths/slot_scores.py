"""What each slot alone says about the responses: a ridge from its means over tokens, penalized by validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aligncut_cli.maths.encoding import iterate_slots
from aligncut_cli.maths.ridge import PENALTIES, SlotStatistics, score_voxels
from aligncut_cli.maths.split_images import ImageSplit

Float = npt.NDArray[np.float32]

# A penalty is chosen on at most this many voxels.
_TRIED_VOXELS = 1024


def predict_by_each_slot(
    pooled: Sequence[Float],
    statistics: Sequence[SlotStatistics],
    split: ImageSplit,
    targets: Float,
    *,
    device: torch.device,
) -> Iterator[tuple[int, int, Float]]:
    """Yield (model, layer, predicted test images (images, voxels)) of every slot, models in order.

    pooled  : per model (layers, images, D_i)
    targets : (images, voxels) with mean 0 over the training images
    """
    train, validation = (
        torch.from_numpy(targets[rows]).to(device).double() for rows in (split.train, split.validation)
    )
    tried = np.unique(np.linspace(0, targets.shape[1] - 1, min(targets.shape[1], _TRIED_VOXELS)).round().astype(int))
    for number, (model, layer, features) in enumerate(iterate_slots(pooled)):
        own = statistics[number]

        def centred(rows: npt.NDArray[np.int64], own: SlotStatistics = own, features: Float = features) -> Tensor:
            return torch.from_numpy((features[rows] - own.mean) / own.spread).to(device).double()

        x = centred(split.train)
        values, vectors = torch.linalg.eigh(x.T @ x)
        values = values.clamp(min=0)
        rotated = vectors.T @ (x.T @ train)
        basis = centred(split.validation) @ vectors
        scores = [
            float(score_voxels(basis @ (shrink[:, None] * rotated[:, tried]), validation[:, tried]).mean())
            for shrink in (_shrink(values, penalty) for penalty in PENALTIES)
        ]
        best = _shrink(values, PENALTIES[int(np.argmax(scores))])
        predicted = centred(split.test) @ vectors @ (best[:, None] * rotated)
        yield model, layer, predicted.float().cpu().numpy()


def _shrink(values: Tensor, penalty: float) -> Tensor:
    strength = penalty * float(values[-1])
    return 1 / (values + strength) if 0 < strength < np.inf else torch.zeros_like(values)
