"""Creates architectures of timm's."""

from __future__ import annotations

import hashlib
from typing import Any

import timm
import torch
from torch import nn

from aligncut_cli.models.registry import ModelSpec


def build_model(spec: ModelSpec, *, seed: int | None = None, **options: Any) -> nn.Module:
    """Create the architecture without its classifier, leaving torch's global generator as it was.

    seed    : of the initial values, together with the model's name, so that two random models differ
    options : further arguments of `timm.create_model`
    """
    arguments: dict[str, Any] = {"num_classes": 0, "img_size": spec.image_size, **dict(spec.arch), **options}
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            mixed = hashlib.sha256(f"{seed}/{spec.name}".encode()).digest()
            # Not torch.manual_seed, which would also reseed the CUDA generators.
            torch.default_generator.manual_seed(int.from_bytes(mixed[:8], "little", signed=True))
        model: nn.Module = timm.create_model(spec.timm_name, **arguments)
    return model.eval()
