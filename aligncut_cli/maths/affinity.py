"""Cosine affinity between nodes (Eq. 3)."""

from __future__ import annotations

import torch

from aligncut_cli.maths.products import inner_products

# Norms whose squares, and those of the entries that matter in them, are normal float32 numbers.
_SAFE_NORMS = (1e-12, 1e18)


def unit_rows(features: torch.Tensor) -> torch.Tensor:
    """Scale each row to unit length, so that inner products are cosines.

    features : (n, D), any floating type; the caller has checked that they are finite
    returns  : (n, D) float32; a zero row stays zero: its cosine with every row is 0 and its affinity exp(-1)
    """
    rows = features.to(torch.float32)
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    extreme = ((norm < _SAFE_NORMS[0]) | (norm > _SAFE_NORMS[1])).squeeze(-1)
    if bool(extreme.any()):
        # Squares leave the range of float32: scale these rows by their largest entry first.
        largest = rows[extreme].abs().amax(dim=-1, keepdim=True)
        rows = rows.clone()
        rows[extreme] /= torch.where(largest > 0, largest, torch.ones_like(largest))
        norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / torch.where(norm > 0, norm, torch.ones_like(norm))


def affinity_from_cosine_(cosine: torch.Tensor) -> torch.Tensor:
    """Turn cosines into affinities exp(cos - 1), in place (Eq. 3).

    cosine  : any shape; clamped to [-1, 1], which rounding may leave by a little
    returns : the same tensor, values in [exp(-2), 1]
    """
    return cosine.clamp_(-1.0, 1.0).sub_(1.0).exp_()


def affinity(a_unit: torch.Tensor, b_unit: torch.Tensor) -> torch.Tensor:
    """Affinity exp(cos - 1) between all pairs of two sets of nodes (Eq. 3).

    a_unit  : (n, D) unit or zero rows
    b_unit  : (m, D) unit or zero rows
    returns : (n, m), values in [exp(-2), 1]
    """
    return affinity_from_cosine_(inner_products(a_unit, b_unit))
