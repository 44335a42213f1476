"""Cosine affinity between nodes (Eq. 3)."""

from __future__ import annotations

import torch

# Norms whose squares, and those of the entries that matter in them, are normal float32 numbers.
_SAFE_NORMS = (1e-12, 1e18)
# Multiply-adds from which oneDNN's start-up does not count.
_ONEDNN_FROM = 2_000_000
# oneDNN's product of two ordinary tensors, x @ w.T. The public way to it copies both operands and the result into and
# out of oneDNN's layout, which costs as much as the product; where this name is gone, that way is taken.
_onednn_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


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


def inner_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """All inner products of two sets of rows by the fastest route of the same precision.

    On the CPU that is oneDNN, which uses AVX-512 on every processor that has it; MKL, behind `@`, does so on Intel's
    only and takes two to three times as long elsewhere.

    a       : (n, D)
    b       : (m, D), same dtype and device
    returns : (n, m), same dtype, contiguous
    """
    large = len(a) * len(b) * a.shape[1] >= _ONEDNN_FROM
    if not (large and a.device.type == "cpu" and a.dtype == torch.float32 and torch.backends.mkldnn.is_available()):
        return a @ b.T
    product: torch.Tensor
    if _onednn_linear is None:
        product = torch.nn.functional.linear(a.to_mkldnn(), b.to_mkldnn()).to_dense()
    else:
        # Of a matrix with gaps between its rows oneDNN has the reference loop only, a thousand times slower.
        b = b if b.is_contiguous() or b.T.is_contiguous() else b.contiguous()
        product = _onednn_linear(a.contiguous(), b, None, "none", [], "")
    return product


def affinity(a_unit: torch.Tensor, b_unit: torch.Tensor) -> torch.Tensor:
    """Affinity exp(cos - 1) between all pairs of two sets of nodes (Eq. 3).

    a_unit  : (n, D) unit or zero rows
    b_unit  : (m, D) unit or zero rows
    returns : (n, m), values in [exp(-2), 1]
    """
    return affinity_from_cosine_(inner_products(a_unit, b_unit))
