"""Closed-form ridge on the pooled features of all slots together: the honest baseline of the alignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aligncut_cli.maths.encoding import iterate_slots
from aligncut_cli.maths.products import inner_products, product
from aligncut_cli.maths.split_images import ImageSplit

Float = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]

# Up to this many training images the kernel is decomposed in float64. Above, float32 takes a quarter of the
# time, and the penalties that it cannot resolve do not validate.
PRECISE_IMAGES = 4096

# Relative to the largest eigenvalue; infinity predicts the mean response.
PENALTIES = (*(float(10.0**power) for power in np.arange(-6, 1.01, 0.5)), float("inf"))

# Images whose products with all training images are made at a time.
_IMAGES_PER_BLOCK = 1024

# A penalty for all voxels is chosen on at most this many.
_TRIED_VOXELS = 4096


@dataclass(frozen=True)
class SlotStatistics:
    """Of one slot on the training images: mean (D,), and root mean square distance from it (> 0)."""

    mean: Float
    spread: float


def measure_slot(features: Float, train: Index) -> SlotStatistics:
    """Mean and spread of a slot's pooled features over the training images.

    features : (images, D)
    train    : rows
    """
    rows = features[train]
    mean = rows.mean(axis=0, dtype=np.float64)
    square = float(np.square(rows - mean).sum(axis=1, dtype=np.float64).mean())
    return SlotStatistics(mean.astype(np.float32), float(np.sqrt(square)) if square > 0 else 1.0)


@dataclass(frozen=True)
class KernelRidge:
    """Ridge over all slots side by side, in its dual form: images x images instead of channels x channels.

    factors      : (slots,) each slot's features are multiplied by it
    eigenvalues  : (train,) of the centred kernel of the training images, ascending
    eigenvectors : (train, train)
    kernel       : (images, train), centred with the training means
    """

    factors: npt.NDArray[np.float64]
    eigenvalues: Tensor
    eigenvectors: Tensor
    kernel: Tensor

    def shrink(self, penalty: float) -> Tensor:
        """1 / (eigenvalue + penalty), zero if the penalty is infinite; (train,)."""
        strength = penalty * float(self.eigenvalues[-1])
        if not 0 < strength < np.inf:
            return torch.zeros_like(self.eigenvalues)
        return 1 / (self.eigenvalues.clamp(min=0) + strength)

    def open_basis(self, images: Index) -> Tensor:
        """Rows of these images in the eigenbasis: (b, train); times shrunken, rotated targets it predicts."""
        return product(self.kernel[torch.from_numpy(images).to(self.kernel.device)], self.eigenvectors)


def decompose_kernels(
    pooled: Sequence[Float],
    statistics: Sequence[SlotStatistics],
    train: Index,
    *,
    equalize: Sequence[bool],
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> list[KernelRidge]:
    """Average the slots' linear kernels and take them apart.

    pooled     : per model (layers, images, D_i)
    statistics : per slot, of the training images
    train      : rows
    equalize   : give every slot the same spread; else features count as large as they are. One kernel is made for each
                 value, all of them of one set of products
    """
    overall = float(np.sqrt(np.mean([slot.spread**2 for slot in statistics])))
    factors = [np.array([1 / slot.spread if each else 1 / overall for slot in statistics]) for each in equalize]
    n_images = pooled[0].shape[1]
    rows = torch.from_numpy(train).to(device)
    precise = len(train) <= PRECISE_IMAGES or device.type == "cuda"
    dtype = torch.float64 if precise else torch.float32
    kernels = [torch.zeros(n_images, len(train), device=device, dtype=dtype) for _ in factors]
    for number, (_, _, features) in enumerate(iterate_slots(pooled)):
        slot = statistics[number]
        unit = torch.from_numpy((features - slot.mean) / np.float32(slot.spread)).to(device=device, dtype=dtype)
        trained = unit[rows]
        for start in range(0, n_images, _IMAGES_PER_BLOCK):
            part = slice(start, start + _IMAGES_PER_BLOCK)
            products = inner_products(unit[part], trained)
            for kernel, factor in zip(kernels, factors, strict=True):
                kernel[part].add_(products, alpha=float(factor[number] * slot.spread) ** 2 / len(statistics))
        if progress is not None:
            progress(number + 1, len(statistics))
    return [_take_apart(kernel, factor, rows) for kernel, factor in zip(kernels, factors, strict=True)]


def _take_apart(kernel: Tensor, factors: npt.NDArray[np.float64], rows: Tensor) -> KernelRidge:
    block = kernel[rows]
    values, vectors = torch.linalg.eigh((block + block.T) / 2)
    return KernelRidge(factors, values, vectors, kernel)


@dataclass(frozen=True)
class RidgeFit:
    """A ridge with its penalty chosen on the validation images.

    penalty       : relative to the kernel's largest eigenvalue; infinite if none beats the mean response
    validation_r2 : mean over the voxels it was chosen on
    """

    ridge: KernelRidge
    penalty: float
    validation_r2: float


def choose_penalty(ridge: KernelRidge, targets: Float, split: ImageSplit, *, voxels_per_block: int) -> RidgeFit:
    """Try every penalty on the validation images, on evenly spaced voxels if there are very many.

    targets : (images, voxels) with mean 0 over the training images
    """
    n_voxels = targets.shape[1]
    tried = np.unique(np.linspace(0, n_voxels - 1, min(n_voxels, _TRIED_VOXELS)).round().astype(np.int64))
    basis = ridge.open_basis(split.validation)
    totals = np.zeros(len(PENALTIES))
    for part in _split_voxels(len(tried), voxels_per_block):
        rotated = product(ridge.eigenvectors.T, _take(targets, split.train, tried[part], basis))
        measured = _take(targets, split.validation, tried[part], basis)
        totals += [float(score_voxels(product(basis * ridge.shrink(p), rotated), measured).sum()) for p in PENALTIES]
    best = int(np.argmax(totals))
    return RidgeFit(ridge, PENALTIES[best], float(totals[best]) / len(tried))


def predict_by_ridge(fit: RidgeFit, targets: Float, train: Index, images: Index, *, voxels_per_block: int) -> Float:
    """Predicted targets of some images.

    targets : (images, voxels) with mean 0 over the training images
    images  : (b,) rows
    returns : (b, voxels)
    """
    basis = product(fit.ridge.open_basis(images) * fit.ridge.shrink(fit.penalty), fit.ridge.eigenvectors.T)
    predicted = np.empty((len(images), targets.shape[1]), dtype=np.float32)
    for part in _split_voxels(targets.shape[1], voxels_per_block):
        wanted = _take(targets, train, np.arange(part.start, part.stop), basis)
        predicted[:, part] = product(basis, wanted).cpu().numpy()
    return predicted


def _split_voxels(n_voxels: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, n_voxels)) for start in range(0, n_voxels, step)]


def _take(targets: Float, rows: Index, voxels: Index, like: Tensor) -> Tensor:
    return torch.from_numpy(targets[np.ix_(rows, voxels)]).to(like)


def score_voxels(predicted: Tensor, measured: Tensor) -> Tensor:
    """Coefficient of determination per voxel in the tensors' precision; 0 where the voxel is constant.

    predicted, measured : (images, voxels)
    returns             : (voxels,) float64
    """
    error = (measured - predicted).square().sum(dim=0).double()
    total = (measured - measured.mean(dim=0)).square().sum(dim=0).double()
    varies = total > 0
    return torch.where(varies, 1 - error / torch.where(varies, total, 1.0), 0.0)
