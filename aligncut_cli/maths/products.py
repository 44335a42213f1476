"""Matrix products by the fastest route of the same precision.

On the CPU that is oneDNN for float32: it uses AVX-512 on every processor that has it; MKL, behind torch's `@` and
`linear`, does so on Intel's only and takes about twice as long elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# Multiply-adds from which oneDNN's start-up does not count.
_ONEDNN_FROM = 2_000_000


def _find_onednn() -> Callable[..., torch.Tensor] | None:
    """Return oneDNN's product of ordinary tensors, x @ w.T + bias, or None where this build of torch has it not.

    It is a private name of torch's. The public way to oneDNN copies operands and result into and out of its layout,
    which costs as much as the product; so where this name is gone or changed, torch's own product is taken.
    """
    operation: Callable[..., torch.Tensor] | None = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operation is None or not torch.backends.mkldnn.is_available():
        return None
    x, weight = torch.eye(2, 3), torch.arange(12.0).view(3, 4).T
    try:
        works = torch.equal(operation(x, weight, None, "none", [], ""), weight.T[:2])
    except (RuntimeError, TypeError):
        return None
    return operation if works else None


_onednn_linear = _find_onednn()


def inner_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """All inner products of two sets of rows.

    a       : (n, D)
    b       : (m, D), same dtype and device
    returns : (n, m), same dtype, contiguous
    """
    return linear(a, b, None)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A B of matrices (n, D) and (D, m) of one dtype and device, without a gradient."""
    return linear(a, b.T, None)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x W^T + b, as `torch.nn.functional.linear`, without a gradient.

    x       : (..., D)
    weight  : (m, D), same dtype and device
    bias    : (m,) or None
    returns : (..., m)
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() * len(weight) < _ONEDNN_FROM
    if plain or _onednn_linear is None:
        return torch.nn.functional.linear(x, weight, bias)
    # Of a matrix with gaps between its rows oneDNN has the reference loop only, a thousand times slower.
    weight = weight if weight.is_contiguous() or weight.T.is_contiguous() else weight.contiguous()
    return _onednn_linear(x.contiguous(), weight, bias, "none", [], "")


class _SlotProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(rows)
        results = rows.new_empty(*rows.shape[:2], weights.shape[2])
        for own, weight, result in zip(rows, weights, results, strict=True):
            result.copy_(product(own, weight))
        return results

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor]:
        (rows,) = ctx.saved_tensors
        by_weights = rows.new_empty(len(rows), rows.shape[2], gradient.shape[2])
        for own, by_result, by_weight in zip(rows, gradient, by_weights, strict=True):
            by_weight.copy_(product(own.T, by_result))
        return None, by_weights


def slot_products(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Rows of several slots, each slot's mapped by its own weight; differentiable by the weights, not by the rows.

    rows    : (slots, n, D)
    weights : (slots, D, k), same dtype and device
    returns : (slots, n, k)
    """
    if rows.device.type != "cpu":
        return rows @ weights
    results: torch.Tensor = _SlotProducts.apply(rows, weights)
    return results
