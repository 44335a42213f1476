"""What a model's matrix products are computed in, by the name that the user gives and by what the device is good at."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

# Tokens are stored as float16, and bfloat16 spends 3 of their 11 significant bits for a range that they cannot use; so
# CUDA computes in float16 by itself, and the CPU, which has no fast float16, in float32. The residual stream stays
# float32 either way. What does overflow shows up in Features.finite.
_BY_DEVICE = {"cpu": "fp32", "cuda": "fp16"}
_HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def resolve_precision(name: str, device: torch.device) -> str:
    """Return fp32, fp16 or bf16: what `auto` means on a device, or what was asked for."""
    return _BY_DEVICE[device.type] if name == "auto" else name


def has_bf16_instructions() -> bool:
    """Return whether the processor multiplies in bfloat16 by itself, by AVX512-BF16, AMX or those of ARM.

    Others compute the same with float32's instructions and conversions, several times slower than float32.
    """
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:  # torch before 2.10
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return any(there for name, there in ask().items() if "bf16" in name)


def products_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which products are computed in a precision that `resolve_precision` gave."""
    half = _HALVES.get(precision)
    return nullcontext() if half is None else torch.autocast(device.type, dtype=half)


def round_linear_layers(model: nn.Module, precision: str) -> None:
    """Round the weights of linear layers once, where autocast on the CPU would do so in every pass.

    They are half of the memory then, and products a third faster.
    """
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.to(_HALVES[precision])
