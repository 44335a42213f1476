"""Masked reconstruction (MAE-like), of colours and gradient histograms as MaskFeat has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo_objectives.encoder import (
    GRID,
    PATCH,
    WIDTH,
    Draw,
    build_encoder,
    choose_patches,
    encode,
    list_window,
    to_input,
)
from demo_objectives.scenes import Visits

DECODER = 96
ORIENTATIONS, CELL = 8, 4  # bins over half a turn; pixels
SEEN = (2 * ORIENTATIONS + 3) * (PATCH // CELL) ** 2
WORDS, AROUND = 192, (1, 3, 5)  # random features of a patch, averaged over so many patches across
TARGETS = SEEN + WORDS * len(AROUND)


class Mae(nn.Module):
    """Three of four patches are hidden from the encoder; a small decoder reconstructs what they look like.

    The target is no pixel but what can be known of it: where the stripes of a texture lie is chance, how they are
    oriented is not. Per 4 x 4 pixels: mean colour, and gradients by orientation at two scales; of these random
    nonlinear features, of the patch itself and averaged over its surroundings. All of it is told of the picture itself
    and of the same place at the other visit, of which only what is bound to the kind of thing can be known. In half of the batches the patches that
    are seen lie apart, in the others in one square; what is seen is described too, by the encoder alone.
    """

    batch, lr, alike = 32, 1.5e-3, 0.0

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder()
        self.inward = nn.Linear(WIDTH, DECODER)
        self.hidden = nn.Parameter(torch.randn(1, 1, DECODER) * 0.02)
        self.places = nn.Parameter(torch.randn(1, GRID * GRID + 1, DECODER) * 0.02)
        layer = nn.TransformerEncoderLayer(DECODER, 4, 192, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.outward = nn.Sequential(nn.LayerNorm(DECODER), nn.Linear(DECODER, 2 * TARGETS))
        self.direct = nn.Linear(WIDTH, 2 * TARGETS)
        self.register_buffer("words", 1.5 * torch.randn(SEEN, WORDS) / SEEN**0.5)

    def prepare(self, visits: Visits) -> None:
        """Measure the mean and the spread of the targets on some scenes."""
        images = to_input(visits[0].pictures[:256])
        looks = look_at_patches(images)
        self.mean, self.spread = looks.mean(dim=(0, 1)), looks.std(dim=(0, 1))
        targets = self._describe(images)
        self.level, self.range = targets.mean(dim=(0, 1)), targets.std(dim=(0, 1)).clamp(min=1e-3)

    def _describe(self, images: Tensor) -> Tensor:
        """Targets (n, patches, TARGETS) of pictures (n, 3, 112, 112)."""
        looks = (look_at_patches(images) - self.mean) / self.spread
        maps = F.gelu(looks @ self.words).transpose(1, 2).reshape(len(images), WORDS, GRID, GRID)
        averaged = [F.avg_pool2d(F.pad(maps, (k // 2,) * 4, mode="replicate"), k, stride=1) for k in AROUND]
        return torch.cat([looks, *(part.flatten(2).transpose(1, 2) for part in averaged)], dim=2)

    def loss(self, visits: Visits, chosen: np.ndarray, draw: Draw, progress: float) -> Tensor:
        """Mean squared error of the hidden patches' targets, each standardized, plus half that of the seen ones'."""
        seen = int(draw.rng.integers(2))
        images = to_input(visits[seen].pictures[chosen])
        both = [self._describe(images), self._describe(to_input(visits[1 - seen].pictures[chosen]))]
        truth = torch.cat([(targets - self.level) / self.range for targets in both], dim=2)
        n = len(images)
        order, keep = choose_patches(n, 0.25, draw.generator)
        if draw.rng.random() < 0.5:
            corner = draw.rng.integers(0, GRID - 6, (2, n))
            keep = list_window(corner[0], corner[1], 7)
            order = torch.zeros(n, GRID * GRID).scatter_(1, keep, -1.0).argsort(dim=1, stable=True)
        tokens = encode(self.encoder, images, keep)
        inside = self.inward(tokens)
        hidden = self.hidden.expand(n, order.shape[1] - keep.shape[1], -1)
        shuffled = torch.cat([inside[:, 1:], hidden], dim=1)
        in_place = shuffled.gather(1, order.argsort(dim=1)[..., None].expand(-1, -1, DECODER))
        guess = self.outward(self.decoder(torch.cat([inside[:, :1], in_place], dim=1) + self.places))[:, 1:]
        error = (guess - truth).square().mean(dim=-1).gather(1, order[:, keep.shape[1] :])
        known = truth.gather(1, keep[..., None].expand(-1, -1, 2 * TARGETS))
        return error.mean() + 0.5 * F.mse_loss(self.direct(tokens[:, 1:]), known)

    def finish_step(self, progress: float) -> None:
        """Nothing follows a step."""

    def shipped(self) -> Any:
        """Return the encoder that the demo uses."""
        return self.encoder


def look_at_patches(images: Tensor) -> Tensor:
    """Measure what patches look like: (n, 3, 112, 112) to (n, patches, values).

    Per cell: the mean colour, and the logarithm of the gradient's size in each orientation at two scales.
    """
    parts = [F.avg_pool2d(images, CELL)]
    grey = images.mean(dim=1, keepdim=True)
    for scale in (1, 2):
        smooth = F.avg_pool2d(F.pad(grey, (0, scale - 1, 0, scale - 1), mode="replicate"), scale, stride=1)
        across = F.pad(smooth[..., 2:] - smooth[..., :-2], (1, 1))
        down = F.pad(smooth[..., 2:, :] - smooth[..., :-2, :], (0, 0, 1, 1))
        turn = torch.atan2(down, across) / torch.pi % 1 * ORIENTATIONS
        bins = turn.long().clamp(max=ORIENTATIONS - 1)
        sizes = images.new_zeros(len(images), ORIENTATIONS, *images.shape[2:])
        sizes.scatter_(1, bins, torch.hypot(across, down))
        parts.append((F.avg_pool2d(sizes, CELL) + 0.01).log())
    cells = torch.cat(parts, dim=1)  # (n, values, 28, 28)
    return F.unfold(cells, PATCH // CELL, stride=PATCH // CELL).transpose(1, 2)
