"""Principal axes of the responses that a ridge on all slots predicts, and every slot's own ridge to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aligncut_cli.maths.encoding import iterate_slots
from aligncut_cli.maths.ridge import PENALTIES, KernelRidge, SlotStatistics
from aligncut_cli.maths.split_images import ImageSplit

Float = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]

# Axes along which less of the largest axis' variance is predicted are rounding errors.
_MIN_VARIANCE = 1e-6

# Directions of the kernel that carry the responses' axes; more change nothing that survives the penalty.
_MAX_DIRECTIONS = 2048


def find_response_axes(
    ridge: KernelRidge,
    penalty: float,
    targets: Float,
    train: Index,
    *,
    n_axes: int,
    voxels_per_block: int,
) -> Tensor:
    """Principal axes of the responses that the ridge predicts (reduced-rank regression).

    targets : (images, voxels) with mean 0 over the training images
    n_axes  : at most this many
    returns : (axes, voxels) orthonormal rows, most predicted variance first
    """
    n_voxels = targets.shape[1]
    n_kept = min(len(train), _MAX_DIRECTIONS)
    basis = ridge.eigenvectors[:, -n_kept:] * (ridge.eigenvalues * ridge.shrink(penalty))[-n_kept:]
    # Predictions are orthonormal @ reduced, so reduced (directions x voxels) has their singular values and axes.
    reduced = basis.new_empty(n_kept, n_voxels)
    for start in range(0, n_voxels, voxels_per_block):
        part = slice(start, start + voxels_per_block)
        reduced[:, part] = basis.T @ torch.from_numpy(targets[train, part]).to(basis)
    wide = n_voxels > n_kept
    variances, vectors = torch.linalg.eigh(reduced @ reduced.T if wide else reduced.T @ reduced)
    n_axes = min(n_axes, int((variances > _MIN_VARIANCE * variances[-1]).sum()))
    axes = vectors[:, len(variances) - n_axes :].T
    if wide:
        # The Gram matrix squares what is small, so orthogonality is restored, from the largest axis on.
        axes = torch.linalg.qr((axes @ reduced).flip(0).T).Q.T.flip(0)
    axes = axes.flip(0)
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    signed: Tensor = (axes * torch.where(largest < 0, -1.0, 1.0)).contiguous()
    return signed


def fit_slots_to_axes(
    pooled: Sequence[Float],
    statistics: Sequence[SlotStatistics],
    split: ImageSplit,
    targets: Tensor,
    validation_targets: Tensor,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Ridge from every slot alone to the same targets, each with its own penalty chosen on the validation images.

    pooled             : per model (layers, images, D_i)
    targets            : (train, axes); validation_targets (validation, axes)
    returns            : per slot (D_i, axes), and the slots' average prediction of targets and validation_targets
    """
    weights: list[Tensor] = []
    average, validation_average = torch.zeros_like(targets), torch.zeros_like(validation_targets)
    for number, (_, _, features) in enumerate(iterate_slots(pooled)):
        own = statistics[number]
        x = torch.from_numpy((features[split.train] - own.mean) / own.spread).to(targets)
        x_validation = torch.from_numpy((features[split.validation] - own.mean) / own.spread).to(targets)
        values, vectors = torch.linalg.eigh(x.T @ x)
        rotated = vectors.T @ (x.T @ targets)
        basis = x_validation @ vectors
        errors, shrinks = [], []
        for penalty in PENALTIES:
            strength = penalty * float(values[-1])
            usable = 0 < strength < np.inf
            shrinks.append(1 / (values.clamp(min=0) + strength) if usable else torch.zeros_like(values))
            errors.append(float((validation_targets - (basis * shrinks[-1]) @ rotated).square().sum()))
        weight = vectors @ (shrinks[int(np.argmin(errors))][:, None] * rotated)
        average += x @ weight
        validation_average += x_validation @ weight
        weights.append(weight / own.spread)
        if progress is not None:
            progress(number + 1, len(statistics))
    return weights, average / len(weights), validation_average / len(weights)
