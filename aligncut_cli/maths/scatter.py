"""Sums of many values into few places, the same bytes every time."""

from __future__ import annotations

import torch
from torch import Tensor

# Bits that a sum of all values may take; the sign and one more stay free.
_BITS = 61


def add_at_(target: Tensor, index: Tensor, source: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Add alpha * source[i] to target[index[i]] for every i, in place, in float32's precision.

    A GPU adds floating-point numbers in whatever order its threads come, and t-SNE amplifies the rounding of that order
    over its steps. There the sums are taken in integers, which no order changes.

    target : (n,)
    index  : (k,) int32 or int64
    source : (k,)
    """
    if target.device.type == "cpu":
        return target.index_add_(0, index, source, alpha=alpha)
    return _add_in_fixed_point_(target, index, source, alpha)


def _add_in_fixed_point_(target: Tensor, index: Tensor, source: Tensor, alpha: float) -> Tensor:
    if source.numel() == 0:
        return target
    bound = (source.abs().amax().double() * source.numel()).clamp_(min=1e-300)
    scale = torch.exp2(torch.floor(_BITS - torch.log2(bound)))
    sums = torch.zeros(len(target), dtype=torch.int64, device=target.device)
    sums.index_add_(0, index, (source.double() * scale).round_().long())
    return target.add_((sums.double() / scale * alpha).to(target.dtype))
