"""Masked reconstruction (MAE-like), of colours and gradient histograms as MaskFeat has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demo_objectives.encoder import GRID, PATCH, WIDTH, Draw, build_encoder, choose_patches, encode, to_input
from demo_objectives.scenes import Scenes

DECODER = 64
ORIENTATIONS, CELL = 8, 4  # bins over half a turn; pixels
TARGETS = (2 * ORIENTATIONS + 3) * (PATCH // CELL) ** 2


class Mae(nn.Module):
    """Three of four patches are hidden from the encoder; a small decoder reconstructs what they look like.

    The target is no pixel but what can be known of it: where stripes of a texture lie is chance, how they are oriented
    is not. Per 4 x 4 pixels: mean colour, and gradients by orientation at two scales.
    """

    batch, lr = 32, 1.5e-3

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder()
        self.inward = nn.Linear(WIDTH, DECODER)
        self.hidden = nn.Parameter(torch.randn(1, 1, DECODER) * 0.02)
        self.places = nn.Parameter(torch.randn(1, GRID * GRID + 1, DECODER) * 0.02)
        layer = nn.TransformerEncoderLayer(DECODER, 4, 192, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.outward = nn.Sequential(nn.LayerNorm(DECODER), nn.Linear(DECODER, TARGETS))

    def prepare(self, scenes: Scenes, cache: Path) -> None:
        """Describe the patches of all scenes once; kept as float16 (n, patches, targets) in the cache."""
        path = cache / f"targets-{len(scenes.pictures)}.npy"
        if not path.exists():
            part = path.with_suffix(".part")
            kept = np.lib.format.open_memmap(part, "w+", np.float16, (len(scenes.pictures), GRID * GRID, TARGETS))
            for first in range(0, len(kept), 64):
                kept[first : first + 64] = describe_patches(to_input(scenes.pictures[first : first + 64])).numpy()
            kept.flush()
            part.rename(path)
        self.targets = np.load(path, mmap_mode="r")
        some = torch.from_numpy(np.array(self.targets[:256])).float()
        self.mean, self.spread = some.mean(dim=(0, 1)), some.std(dim=(0, 1))

    def loss(self, scenes: Scenes, chosen: np.ndarray, draw: Draw, progress: float) -> Tensor:
        """Mean squared error of the hidden patches' targets, each standardized."""
        images = to_input(scenes.pictures[chosen])
        order, keep = choose_patches(len(images), 0.25, draw.generator)
        tokens = self.inward(encode(self.encoder, images, keep))
        hidden = self.hidden.expand(len(images), order.shape[1] - keep.shape[1], -1)
        shuffled = torch.cat([tokens[:, 1:], hidden], dim=1)
        in_place = shuffled.gather(1, order.argsort(dim=1)[..., None].expand(-1, -1, DECODER))
        guess = self.outward(self.decoder(torch.cat([tokens[:, :1], in_place], dim=1) + self.places))[:, 1:]
        truth = (torch.from_numpy(np.array(self.targets[chosen])).float() - self.mean) / self.spread
        error = (guess - truth).square().mean(dim=-1)
        return error.gather(1, order[:, keep.shape[1] :]).mean()

    def finish_step(self, progress: float) -> None:
        """Nothing follows a step."""

    def shipped(self) -> Any:
        """Return the encoder that the demo uses."""
        return self.encoder


def describe_patches(images: Tensor) -> Tensor:
    """Describe what patches look like: (n, 3, 112, 112) to (n, patches, targets).

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
