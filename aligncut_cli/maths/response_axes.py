"""Principal axes of the responses that a ridge on all slots predicts, and every slot's own ridge to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aligncut_cli.maths.encoding import iterate_slots
from aligncut_cli.maths.products import inner_products, product
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
        reduced[:, part] = product(basis.T, torch.from_numpy(targets[train, part]).to(basis))
    wide = n_voxels > n_kept
    variances, vectors = torch.linalg.eigh(inner_products(reduced, reduced) if wide else product(reduced.T, reduced))
    n_axes = min(n_axes, int((variances > _MIN_VARIANCE * variances[-1]).sum()))
    axes = vectors[:, len(variances) - n_axes :].T
    if wide:
        # The Gram matrix squares what is small, so orthogonality is restored, from the largest axis on.
        axes = torch.linalg.qr(product(axes, reduced).flip(0).T).Q.T.flip(0)
    axes = axes.flip(0)
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    signed: Tensor = (axes * torch.where(largest < 0, -1.0, 1.0)).contiguous()
    return signed


@dataclass(frozen=True)
class _SlotRidge:
    """A slot's ridge to the axes, taken apart: its maps and predictions under any penalty are products of these.

    values, vectors : of x'x, x being the slot's training images over its spread
    rotated         : (D, axes) vectors' x' targets
    basis           : (validation, D) the validation images in the same directions
    best            : which of PENALTIES predicts the validation images best from this slot alone
    """

    values: Tensor
    vectors: Tensor
    rotated: Tensor
    basis: Tensor
    best: int

    @classmethod
    def of(cls, x: Tensor, x_validation: Tensor, targets: Tensor, validation_targets: Tensor) -> _SlotRidge:
        values, vectors = torch.linalg.eigh(product(x.T, x))
        ridge = cls(values, vectors, vectors.T @ product(x.T, targets), product(x_validation, vectors), 0)
        errors = [float((validation_targets - ridge.predict(at)).square().sum()) for at in range(len(PENALTIES))]
        return replace(ridge, best=int(np.argmin(errors)))

    def weaken(self, steps: int) -> int:
        """Return the penalty so many steps below the best alone; a slot that predicts nothing is left at that."""
        return self.best if PENALTIES[self.best] == np.inf else max(0, self.best - steps)

    def shrink(self, penalty: int) -> Tensor:
        """Return (D, axes): `rotated`, each direction shrunk as one of PENALTIES wants."""
        strength = PENALTIES[penalty] * float(self.values[-1])
        if not 0 < strength < np.inf:
            return torch.zeros_like(self.rotated)
        return (1 / (self.values.clamp(min=0) + strength))[:, None] * self.rotated

    def predict(self, penalty: int) -> Tensor:
        """Return the prediction of the validation images, (validation, axes)."""
        return self.basis @ self.shrink(penalty)


def fit_slots_to_axes(
    pooled: Sequence[Float],
    statistics: Sequence[SlotStatistics],
    split: ImageSplit,
    targets: Tensor,
    validation_targets: Tensor,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Ridge from every slot alone to the same targets, with penalties chosen on the validation images.

    Each slot has the penalty that is best for it alone, weakened for all slots by as many steps as are best for their
    average: what one slot overfits the others average out, so that strong penalties would cost the average more.

    pooled             : per model (layers, images, D_i)
    targets            : (train, axes); validation_targets (validation, axes)
    returns            : per slot (D_i, axes), and the slots' average prediction of targets and validation_targets
    """

    def load(number: int, features: Float, rows: Index) -> Tensor:
        own = statistics[number]
        return torch.from_numpy((features[rows] - own.mean) / own.spread).to(targets)

    ridges: list[_SlotRidge] = []
    for number, (_, _, features) in enumerate(iterate_slots(pooled)):
        x, x_validation = load(number, features, split.train), load(number, features, split.validation)
        ridges.append(_SlotRidge.of(x, x_validation, targets, validation_targets))
        if progress is not None:
            progress(number + 1, len(statistics))
    averages = []
    for steps in range(len(PENALTIES)):
        predicted = torch.zeros_like(validation_targets)
        for ridge in ridges:
            predicted += ridge.predict(ridge.weaken(steps)) / len(ridges)
        averages.append(predicted)
    errors = [float((validation_targets - predicted).square().sum()) for predicted in averages]
    steps = int(np.argmin(errors))
    weights, average = [], torch.zeros_like(targets)
    for number, (_, _, features) in enumerate(iterate_slots(pooled)):
        weight = ridges[number].vectors @ ridges[number].shrink(ridges[number].weaken(steps))
        average += product(load(number, features, split.train), weight) / len(ridges)
        weights.append(weight / statistics[number].spread)
    return weights, average, averages[steps]
