"""The terms of the alignment's loss (Eq. 5 to 10), each batched over slots."""

from __future__ import annotations

import torch
from torch import Tensor

from aligncut_cli.maths.products import inner_products, product
from aligncut_cli.maths.projector import compute_affinity, normalize_affinity, project_on_leading_eigenvectors

# Voxels of which a batch's predictions stay in the processor's cache.
_VOXELS_PER_BLOCK = 2048


def compute_brain_loss(predicted: Tensor, measured: Tensor) -> Tensor:
    """L_brain: mean absolute error over images and voxels (Eq. 9).

    predicted, measured : (images, voxels)
    """
    return (predicted - measured).abs().mean()


@torch.no_grad()
def differentiate_brain_loss(averaged: Tensor, readout: Tensor, measured: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`compute_brain_loss` of what a readout predicts (Eq. 2), and its gradients, some voxels at a time.

    A block's predictions are used for both gradients while they are in the processor's cache.

    averaged : (images, D') features in the universal space, mean over slots
    readout  : (D', voxels)
    measured : (images, voxels)
    returns  : the loss (), and its gradients by `averaged` and by `readout`
    """
    across = averaged.T.contiguous()
    by_averaged, by_readout = torch.zeros_like(averaged), torch.empty_like(readout)
    total = averaged.new_zeros((), dtype=torch.float64)
    for start in range(0, readout.shape[1], _VOXELS_PER_BLOCK):
        part = slice(start, start + _VOXELS_PER_BLOCK)
        block = readout[:, part].contiguous()
        error = product(averaged, block).sub_(measured[:, part])
        total += error.abs().sum(dtype=torch.float64)
        slope = error.sign_().div_(measured.numel())
        by_readout[:, part] = product(across, slope)
        by_averaged += inner_products(slope, block)
    return (total / measured.numel()).to(averaged.dtype), by_averaged, by_readout


def compute_eigen_loss(before: Tensor, after: Tensor, *, n_kept: int) -> Tensor:
    """L_eigen: how far the map turns the leading eigenvectors (Eq. 5, 8), mean over slots.

    Per slot the Frobenius norm of (X_b X_b^T - X_a X_a^T) * exp(-A_b).

    before : (slots, n, D)  features of n sampled nodes
    after  : (slots, n, D') the same nodes in the universal space
    n_kept : c leading eigenvectors
    """
    with torch.no_grad():
        affinity = compute_affinity(before)
        target = project_on_leading_eigenvectors(normalize_affinity(affinity), n_kept=n_kept)
        weight = torch.exp(-affinity)
    reached = project_on_leading_eigenvectors(normalize_affinity(compute_affinity(after)), n_kept=n_kept)
    difference = (target - reached) * weight
    norms: Tensor = torch.linalg.vector_norm(difference, dim=(-2, -1))
    return norms.mean()


def compute_zero_loss(after: Tensor) -> Tensor:
    """L_zero: mean over channels of the squared channel mean (Eq. 6 as decided), mean over slots.

    after : (slots, n, D')
    """
    return after.mean(dim=-2).square().mean()


def compute_covariance_loss(after: Tensor) -> Tensor:
    """L_cov: (1/D') sum of squared off-diagonal covariances of the channels (Eq. 7), mean over slots.

    after : (slots, n, D'), n >= 2

    The squared entries of the D' x D' covariance sum to those of the n x n Gram matrix, which is smaller.
    """
    n, width = after.shape[-2:]
    centred = after - after.mean(dim=-2, keepdim=True)
    gram = centred @ centred.mT / (n - 1)
    variances = centred.square().sum(dim=-2) / (n - 1)
    off_diagonal = gram.square().sum(dim=(-2, -1)) - variances.square().sum(dim=-1)
    return off_diagonal.clamp(min=0).mean() / width
