"""Masked reconstruction of what patches look like and of what is there (MAE-like, as MaskFeat and MultiMAE have it)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aligncut_cli.demo.scenes import CATEGORIES
from demo_objectives.encoder import (
    GRID,
    LATE,
    PATCH,
    WIDTH,
    Draw,
    build_encoder,
    choose_patches,
    encode,
    list_window,
    share_of_values,
    to_input,
)
from demo_objectives.scenes import Visits

DECODER = 96
ORIENTATIONS, CELL = 8, 4  # bins over half a turn; pixels
LOOKS = (2 * ORIENTATIONS + 3) * (PATCH // CELL) ** 2
TARGETS = LOOKS + len(CATEGORIES) + 1


class Mae(nn.Module):
    """Three of four patches are hidden from the encoder; a small decoder reconstructs what they look like and are.

    No pixels, but what can be known of them: where the stripes of a texture lie is chance, how they are oriented is
    not. Per 4 x 4 pixels: mean colour, and gradients by orientation at two scales (as in MaskFeat). Of looks alone a
    model so small learned textures and hardly any kinds of things in 18 CPU minutes (patches .27), so, as in MultiMAE,
    a map is reconstructed beside them: the share of each category in the patch, which is to this model what the
    captions are to CLIP. In half of the batches the patches that are seen lie apart, in the others in one square; what
    is seen is described too, by the encoder alone. The last sixth of the steps sees three of four patches.
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
        self.outward = nn.Sequential(nn.LayerNorm(DECODER), nn.Linear(DECODER, TARGETS))
        self.direct = nn.Linear(WIDTH, TARGETS)

    def prepare(self, visits: Visits) -> None:
        """Measure the mean and the spread of what patches look like."""
        looks = look_at_patches(to_input(visits[0].pictures[:256]))
        self.mean, self.spread = looks.mean(dim=(0, 1)), looks.std(dim=(0, 1))

    def loss(self, visits: Visits, chosen: np.ndarray, draw: Draw, progress: float) -> Tensor:
        """Error of the hidden patches plus half that of the seen ones; each that of looks plus that of the map."""
        scenes, late = visits[int(draw.rng.integers(2))], progress >= LATE
        chosen = chosen[: len(chosen) // 2] if late else chosen
        images = to_input(scenes.pictures[chosen])
        n = len(images)
        order, keep = choose_patches(n, 0.75 if late else 0.25, draw.generator)
        if draw.rng.random() < 0.5 and not late:
            corner = draw.rng.integers(0, GRID - 6, (2, n))
            keep = list_window(corner[0], corner[1], 7)
            order = torch.zeros(n, GRID * GRID).scatter_(1, keep, -1.0).argsort(dim=1, stable=True)
        tokens = encode(self.encoder, images, keep)
        inside = self.inward(tokens)
        hidden = self.hidden.expand(n, order.shape[1] - keep.shape[1], -1)
        shuffled = torch.cat([inside[:, 1:], hidden], dim=1)
        in_place = shuffled.gather(1, order.argsort(dim=1)[..., None].expand(-1, -1, DECODER))
        guess = self.outward(self.decoder(torch.cat([inside[:, :1], in_place], dim=1) + self.places))[:, 1:]
        looks = (look_at_patches(images) - self.mean) / self.spread
        truth = torch.cat([looks, share_of_values(torch.from_numpy(np.array(scenes.masks[chosen])))], dim=2)
        at = [part[..., None].expand(-1, -1, TARGETS) for part in (order[:, keep.shape[1] :], keep)]
        return measure(guess.gather(1, at[0]), truth.gather(1, at[0])) + 0.5 * measure(
            self.direct(tokens[:, 1:]), truth.gather(1, at[1])
        )

    def finish_step(self, progress: float) -> None:
        """Nothing follows a step."""

    def shipped(self) -> Any:
        """Return the encoder that the demo uses."""
        return self.encoder


def measure(guess: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of looks plus cross-entropy of the map (any, TARGETS)."""
    names = F.log_softmax(guess[..., LOOKS:], dim=-1)
    return F.mse_loss(guess[..., :LOOKS], truth[..., :LOOKS]) - (truth[..., LOOKS:] * names).sum(dim=-1).mean()


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
