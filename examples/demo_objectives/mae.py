"""Masked reconstruction (MAE-like), of colours and gradient histograms as MaskFeat has it."""

from __future__ import annotations

from pathlib import Path
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
from demo_objectives.scenes import Scenes

DECODER = 96
ORIENTATIONS, CELL = 8, 4  # bins over half a turn; pixels
SEEN = (2 * ORIENTATIONS + 3) * (PATCH // CELL) ** 2
WORDS, AROUND = 192, (1, 3, 5)  # random features of a patch, averaged over so many patches across
TARGETS = SEEN + WORDS * len(AROUND)


class Mae(nn.Module):
    """Three of four patches are hidden from the encoder; a small decoder reconstructs what they look like.

    The target is no pixel but what can be known of it: where the stripes of a texture lie is chance, how they are
    oriented is not. Per 4 x 4 pixels: mean colour, and gradients by orientation at two scales; of these random
    nonlinear features, of the patch itself and averaged over its surroundings. In half of the batches the patches that
    are seen lie apart, in the others in one square; what is seen is described too, by the encoder alone.
    """

    batch, lr = 32, 1.5e-3

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
        self.register_buffer("words", 1.5 * torch.randn(SEEN, WORDS) / SEEN**0.5)

    def prepare(self, scenes: Scenes, cache: Path) -> None:
        """Look at the patches of all scenes once; kept as float16 (n, patches, values) in the cache."""
        path = cache / f"seen-{len(scenes.pictures)}.npy"
        if not path.exists():
            part = path.with_suffix(".part")
            kept = np.lib.format.open_memmap(part, "w+", np.float16, (len(scenes.pictures), GRID * GRID, SEEN))
            for first in range(0, len(kept), 64):
                kept[first : first + 64] = look_at_patches(to_input(scenes.pictures[first : first + 64])).numpy()
            kept.flush()
            part.rename(path)
        self.seen = np.load(path, mmap_mode="r")
        some = torch.from_numpy(np.array(self.seen[:256])).float()
        self.mean, self.spread = some.mean(dim=(0, 1)), some.std(dim=(0, 1))
        targets = self._describe(np.arange(min(256, len(self.seen))))
        self.level, self.range = targets.mean(dim=(0, 1)), targets.std(dim=(0, 1)).clamp(min=1e-3)

    def _describe(self, chosen: np.ndarray) -> Tensor:
        """Targets (n, patches, TARGETS) of some scenes."""
        seen = (torch.from_numpy(np.array(self.seen[chosen])).float() - self.mean) / self.spread
        maps = F.gelu(seen @ self.words).transpose(1, 2).reshape(len(chosen), WORDS, GRID, GRID)
        averaged = [F.avg_pool2d(F.pad(maps, (k // 2,) * 4, mode="replicate"), k, stride=1) for k in AROUND]
        return torch.cat([seen, *(part.flatten(2).transpose(1, 2) for part in averaged)], dim=2)

    def loss(self, scenes: Scenes, chosen: np.ndarray, draw: Draw, progress: float) -> Tensor:
        """Mean squared error of the hidden patches' targets, each standardized, plus half that of the seen ones'."""
        images = to_input(scenes.pictures[chosen])
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
        truth = (self._describe(chosen) - self.level) / self.range
        error = (guess - truth).square().mean(dim=-1).gather(1, order[:, keep.shape[1] :])
        known = truth.gather(1, keep[..., None].expand(-1, -1, TARGETS))
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
