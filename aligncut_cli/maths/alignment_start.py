"""A closed-form start of the alignment: every slot predicts the same axes of the brain's responses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aligncut_cli.maths.encoding import iterate_slots
from aligncut_cli.maths.ridge import (
    PENALTIES,
    KernelRidge,
    SlotStatistics,
)
from aligncut_cli.maths.split_images import ImageSplit

Float = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]

# A start is taken from the responses only if it beats the mean response on the validation images by
# this many standard errors; otherwise there is nothing to align by, and the maps start at random.
MIN_STANDARD_ERRORS = 2.0

# Axes along which less of the largest axis' variance is predicted are rounding errors.
_MIN_VARIANCE = 1e-6

# Squared weights of the channels that no axis needs, relative to those that predict: little, but L_eigen can
# only grow what is there.
_RANDOM_SHARE = 0.01

# Directions of the kernel that carry the responses' axes; more change nothing that survives the penalty.
_MAX_DIRECTIONS = 2048


@dataclass(frozen=True)
class AlignmentStart:
    """Where the fit starts, for features as they are and z-scored responses.

    weights        : per model (layers, D_i, D')
    readout        : (D', voxels)
    from_responses : False if the validation images were predicted no better than by the mean response
    validation_r2  : share of the axes' variance that the slots' average explains, without and with the joint fit
    n_axes         : channels that the responses determine; the others are random
    """

    weights: tuple[Tensor, ...]
    readout: Tensor
    from_responses: bool
    validation_r2: tuple[float, float]
    n_axes: int


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


def start_from_responses(
    pooled: Sequence[Float],
    statistics: Sequence[SlotStatistics],
    ridge: KernelRidge,
    penalty: float,
    targets: Float,
    split: ImageSplit,
    *,
    universal_dim: int,
    voxels_per_block: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> AlignmentStart:
    """Closed-form maps for which every slot, and their average (Eq. 2), predicts the responses.

    1. The axes are the principal ones of the responses that a ridge on all slots predicts.
    2. Every slot alone is fitted to the axes, so that the same token lands on the same place from every slot.
    3. What the slots' average leaves over is fitted jointly, by the ridge on all slots.
    4. Channels that no axis needs get small random maps.

    If even so the validation images are predicted no better than by the mean response, all maps are random.

    pooled  : per model (layers, images, D_i)
    ridge   : on the same features, its penalty the one chosen on the validation images
    targets : (images, voxels) with mean 0 over the training images
    """
    axes = find_response_axes(
        ridge, penalty, targets, split.train, n_axes=universal_dim, voxels_per_block=voxels_per_block
    )
    if len(axes) == 0:
        return _assemble(pooled, statistics, [], axes, False, (0.0, 0.0), universal_dim=universal_dim, seed=seed)
    wanted = torch.from_numpy(targets[split.train]).to(axes) @ axes.T
    validation_wanted = torch.from_numpy(targets[split.validation]).to(axes) @ axes.T
    weights, average, validation_average = fit_slots_to_axes(
        pooled, statistics, split, wanted, validation_wanted, progress=progress
    )
    residual = wanted - average
    rotated = ridge.eigenvectors.T @ residual
    basis = ridge.open_basis(split.validation)
    candidates = [validation_average + (basis * ridge.shrink(candidate)) @ rotated for candidate in PENALTIES]
    errors = [float((validation_wanted - predicted).square().sum()) for predicted in candidates]
    best = int(np.argmin(errors))
    dual = ridge.eigenvectors @ (ridge.shrink(PENALTIES[best])[:, None] * rotated)
    for number, (_, _, features) in enumerate(iterate_slots(pooled)):
        own, factor = statistics[number], float(ridge.factors[number])
        x = torch.from_numpy(features[split.train] - own.mean).to(axes)
        weights[number] += factor**2 * (x.T @ dual)

    null = validation_wanted.square().sum(dim=1)
    gain = null - (validation_wanted - candidates[best]).square().sum(dim=1)
    enough = float(gain.mean()) > MIN_STANDARD_ERRORS * float(gain.std()) / len(gain) ** 0.5
    r2 = tuple(1 - error / float(null.sum()) for error in (errors[-1], errors[best]))
    return _assemble(pooled, statistics, weights, axes, enough, (r2[0], r2[1]), universal_dim=universal_dim, seed=seed)


def _assemble(
    pooled: Sequence[Float],
    statistics: Sequence[SlotStatistics],
    slot_weights: Sequence[Tensor],
    axes: Tensor,
    from_responses: bool,
    validation_r2: tuple[float, float],
    *,
    universal_dim: int,
    seed: int,
) -> AlignmentStart:
    device = axes.device
    n_axes = len(axes) if from_responses else 0
    generator = torch.Generator().manual_seed(seed)
    weights: list[Tensor] = []
    number = 0
    for features in pooled:
        stack = torch.empty(len(features), features.shape[2], universal_dim, device=device)
        for layer in range(len(features)):
            weight = torch.randn(features.shape[2], universal_dim, generator=generator).to(device)
            if from_responses:
                found = slot_weights[number]
                weight *= (_RANDOM_SHARE * found.square().sum() / weight.square().sum()).sqrt()
                weight[:, :n_axes] = found
            else:
                weight /= statistics[number].spread * universal_dim**0.5
            stack[layer] = weight
            number += 1
        weights.append(stack)
    readout = torch.zeros(universal_dim, axes.shape[1], device=device)
    readout[:n_axes] = axes[:n_axes]
    return AlignmentStart(tuple(weights), readout, from_responses, validation_r2, n_axes)
