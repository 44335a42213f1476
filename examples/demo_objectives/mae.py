"""Masked reconstruction (MAE-like)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo_objectives.encoder import GRID, PATCH, WIDTH, Draw, build_encoder, choose_patches, encode, to_input
from demo_objectives.scenes import Record

DECODER = 64


class Mae(nn.Module):
    """Three of four patches are hidden from the encoder; a small decoder reconstructs their normalized pixels."""

    batch, lr = 128, 2e-3

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder()
        self.inward = nn.Linear(WIDTH, DECODER)
        self.hidden = nn.Parameter(torch.randn(1, 1, DECODER) * 0.02)
        self.places = nn.Parameter(torch.randn(1, GRID * GRID + 1, DECODER) * 0.02)
        layer = nn.TransformerEncoderLayer(DECODER, 4, 192, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.outward = nn.Sequential(nn.LayerNorm(DECODER), nn.Linear(DECODER, PATCH * PATCH * 3))

    def loss(self, pictures: np.ndarray, records: list[Record], draw: Draw, progress: float) -> Tensor:
        """Mean squared error of the hidden patches' pixels, each patch normalized by its own mean and variance."""
        images = to_input(pictures)
        mirrored = draw.uniform(0, 1, len(images)) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
        order, keep = choose_patches(len(images), 0.25, draw.generator)
        tokens = self.inward(encode(self.encoder, images, keep))
        hidden = self.hidden.expand(len(images), order.shape[1] - keep.shape[1], -1)
        shuffled = torch.cat([tokens[:, 1:], hidden], dim=1)
        in_place = shuffled.gather(1, order.argsort(dim=1)[..., None].expand(-1, -1, DECODER))
        guess = self.outward(self.decoder(torch.cat([tokens[:, :1], in_place], dim=1) + self.places))[:, 1:]
        truth = F.unfold(images, PATCH, stride=PATCH).transpose(1, 2)
        truth = (truth - truth.mean(dim=-1, keepdim=True)) / (truth.var(dim=-1, keepdim=True) + 1e-4).sqrt()
        error = (guess - truth).square().mean(dim=-1)
        return error.gather(1, order[:, keep.shape[1] :]).mean()

    def finish_step(self, progress: float) -> None:
        """Nothing follows a step."""

    def shipped(self) -> Any:
        """Return the encoder that the demo uses."""
        return self.encoder
