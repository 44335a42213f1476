"""Matrix products by the fastest route of the same precision.

On the CPU that is oneDNN for float32: it uses AVX-512 on every processor that has it; MKL, behind torch's `@` and
`linear`, does so on Intel's only and takes about twice as long elsewhere.
"""

from __future__ import annotations

import torch

# Multiply-adds from which oneDNN's start-up does not count.
_ONEDNN_FROM = 2_000_000
# oneDNN's product of ordinary tensors, x @ w.T + bias. The public way to it copies operands and result into and out of
# oneDNN's layout, which costs as much as the product; where this name is gone, torch's own product is taken.
_onednn_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def inner_products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """All inner products of two sets of rows.

    a       : (n, D)
    b       : (m, D), same dtype and device
    returns : (n, m), same dtype, contiguous
    """
    return linear(a, b, None)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x W^T + b, as `torch.nn.functional.linear`, without a gradient.

    x       : (..., D)
    weight  : (m, D), same dtype and device
    bias    : (m,) or None
    returns : (..., m)
    """
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() * len(weight) < _ONEDNN_FROM
    if plain or _onednn_linear is None or not torch.backends.mkldnn.is_available():
        return torch.nn.functional.linear(x, weight, bias)
    # Of a matrix with gaps between its rows oneDNN has the reference loop only, a thousand times slower.
    weight = weight if weight.is_contiguous() or weight.T.is_contiguous() else weight.contiguous()
    product: torch.Tensor = _onednn_linear(x.contiguous(), weight, bias, "none", [], "")
    return product
