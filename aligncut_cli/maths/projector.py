"""The projector onto the leading eigenvectors of the normalized affinity, with a gradient of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Where the last kept and the first dropped eigenvalue (all lie in [-1, 1]) come closer than this, the
# subspace itself is undecided and its true gradient is unbounded; the floor bounds it.
MIN_GAP = 1e-4


class _LeadingProjector(torch.autograd.Function):
    """X X^T of the c leading eigenvectors of a symmetric matrix.

    A perturbation dM turns the kept subspace only towards dropped eigenvectors:
    dP = sum over kept i, dropped j of (x_i' dM x_j) / (l_i - l_j) (x_i x_j' + x_j x_i'),
    so gaps inside the kept subspace, by which the textbook gradient of eigh divides, never appear.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, n_kept: int) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors)
        ctx.n_kept = n_kept
        kept: Tensor = vectors[..., -n_kept:]
        return torch.matmul(kept, kept.mT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        dropped, kept = vectors[..., : -ctx.n_kept], vectors[..., -ctx.n_kept :]
        gaps = values[..., -ctx.n_kept :, None] - values[..., None, : -ctx.n_kept]
        core = kept.mT @ (gradient + gradient.mT) @ dropped / gaps.clamp(min=MIN_GAP)
        half = kept @ core @ dropped.mT
        return (half + half.mT) / 2, None


def project_on_leading_eigenvectors(matrix: Tensor, *, n_kept: int) -> Tensor:
    """Projector X X^T of the leading eigenvectors; gauge-free, differentiable, batched.

    matrix  : (..., n, n) symmetric
    n_kept  : c, fewer than n
    returns : (..., n, n)
    """
    projector: Tensor = _LeadingProjector.apply(matrix, n_kept)
    return projector


def compute_affinity(features: Tensor) -> Tensor:
    """A = exp(cos - 1) between all nodes of one set (Eq. 3).

    features : (..., n, D) one row per node; a zero row has cosine 0 to all others
    returns  : (..., n, n) in [exp(-2), 1]
    """
    unit = torch.nn.functional.normalize(features, dim=-1, eps=torch.finfo(features.dtype).tiny ** 0.5)
    return torch.exp(unit @ unit.mT - 1)


def normalize_affinity(affinity: Tensor) -> Tensor:
    """D^{-1/2} A D^{-1/2} (Eq. 3).

    affinity : (..., n, n) positive
    returns  : (..., n, n) symmetric, largest eigenvalue 1
    """
    scale = affinity.sum(dim=-1).rsqrt()
    return affinity * scale[..., :, None] * scale[..., None, :]
