"""The small ViT that all three objectives train, and what they share: randomness, inputs, choices of patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aligncut_cli.demo.scenes import CATEGORIES, SIZE
from aligncut_cli.models.registry import SHORT_NAMES

SPEC = SHORT_NAMES["demo-clip"]  # the three differ in their weights only
ARCHITECTURE: dict[str, Any] = {"img_size": SIZE, "num_classes": 0, **dict(SPEC.arch)}
WIDTH, PATCH, HEADS = (int(ARCHITECTURE[name]) for name in ("embed_dim", "patch_size", "num_heads"))
GRID = SIZE // PATCH
LATE = 5 / 6  # of the steps; what follows sees whole scenes


class Draw:
    """All randomness of one training run."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.rng = np.random.default_rng(seed)

    def uniform(self, low: float, high: float, n: int) -> Tensor:
        """(n, 1, 1, 1) numbers from low to high."""
        return low + (high - low) * torch.rand(n, 1, 1, 1, generator=self.generator)


def build_encoder() -> nn.Module:
    """Return timm's ViT with initial weights as those of trained ViTs look (mimetic initialization).

    Trockman & Kolter 2023: query and key begin near the identity and positions as sines, so that attention begins
    local; value and projection near minus the identity. It saves a small ViT most of its first epochs.
    """
    vit: Any = timm.create_model(SPEC.timm_name, pretrained=False, **ARCHITECTURE)
    with torch.no_grad():
        vit.pos_embed[0, 1:] = make_sines()
        for block in vit.blocks:
            query_key = [0.7 * torch.eye(WIDTH) + 0.7 * torch.randn(WIDTH, WIDTH) / WIDTH**0.5 for _ in range(HEADS)]
            size = WIDTH // HEADS
            for head, product in enumerate(query_key):
                u, s, vt = torch.linalg.svd(product)
                rows = slice(head * size, (head + 1) * size)
                block.attn.qkv.weight[:WIDTH][rows] = (u[:, :size] * s[:size].sqrt()).T
                block.attn.qkv.weight[WIDTH : 2 * WIDTH][rows] = s[:size, None].sqrt() * vt[:size]
            u, s, vt = torch.linalg.svd(0.4 * torch.randn(WIDTH, WIDTH) / WIDTH**0.5 - 0.4 * torch.eye(WIDTH))
            block.attn.qkv.weight[2 * WIDTH :] = s[:, None].sqrt() * vt
            block.attn.proj.weight[:] = u * s.sqrt()
    encoder: nn.Module = vit
    return encoder


def whiten_patches(vit: Any, pictures: np.ndarray, draw: Draw) -> None:
    """Let the patch embedding begin as whitened principal components, so that texture counts as much as colour.

    pictures : uint8 (n, 112, 112, 3), of which 20 patches each are taken
    """
    corners = draw.rng.integers(0, SIZE - PATCH, (2, 20, len(pictures)))
    images = to_input(pictures)
    patches = torch.stack(
        [
            images[k, :, row : row + PATCH, column : column + PATCH].flatten()
            for rows, columns in zip(*corners, strict=True)
            for k, (row, column) in enumerate(zip(rows, columns, strict=True))
        ]
    )
    mean = patches.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    largest = values[-WIDTH:].flip(0)
    filters = vectors[:, -WIDTH:].flip(1) / (largest + 0.01 * largest[10]).sqrt()  # (pixels, width)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=draw.generator))[0]
    weight = (filters @ turn).T
    with torch.no_grad():
        vit.patch_embed.proj.weight[:] = weight.view(WIDTH, 3, PATCH, PATCH)
        vit.patch_embed.proj.bias[:] = -weight @ mean


def make_sines() -> Tensor:
    """Positions (patches, width) as sines and cosines of row and column at wavelengths from 3 to 40 patches."""
    number = WIDTH // 4
    waves = 2 * torch.pi / torch.logspace(np.log10(3.0), np.log10(40.0), number)
    angles = torch.arange(GRID)[:, None] * waves
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, width / 2)
    rows, columns = line[:, None].expand(GRID, GRID, -1), line[None].expand(GRID, GRID, -1)
    return 0.3 * torch.cat([rows, columns], dim=2).reshape(GRID * GRID, WIDTH)


def to_input(pictures: np.ndarray) -> Tensor:
    """(n, 112, 112, 3) uint8 to (n, 3, 112, 112) float, normalized with mean 0.5 and standard deviation 0.5."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def share_of_values(masks: Tensor) -> Tensor:
    """Turn masks (n, pixels, pixels) into the share of each value in each patch, (n, patches, values)."""
    pixels = F.one_hot(masks.long(), len(CATEGORIES) + 1).float().permute(0, 3, 1, 2)
    return F.avg_pool2d(pixels, PATCH).flatten(2).transpose(1, 2)


def encode(vit: Any, images: Tensor, keep: Tensor | None = None, window: Tensor | None = None) -> Tensor:
    """Tokens (n, 1 + patches, width) after the last norm.

    keep   : (n, k) of the whole picture's patches: only these are encoded
    window : (n, patches) for images smaller than the whole: which of its patches theirs stand for
    """
    tokens = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
    places = vit.pos_embed[0, 1:]
    tokens = tokens + (places if window is None else places[window])
    if keep is not None:
        tokens = tokens.gather(1, keep[..., None].expand(-1, -1, WIDTH))
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
    return vit.norm(vit.blocks(torch.cat([first, tokens], dim=1)))


def list_window(top: np.ndarray, left: np.ndarray, side: int) -> Tensor:
    """Patches (n, side * side) of square windows whose first patches are at (n,) rows and columns of the grid."""
    line = np.arange(side)
    rows, columns = top[:, None, None] + line[:, None], left[:, None, None] + line[None]
    return torch.from_numpy((rows * GRID + columns).reshape(len(top), side * side))


def choose_patches(n: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random order (n, 196) of the patches and the first `share` of it (n, k)."""
    order = torch.rand(n, GRID * GRID, generator=generator).argsort(dim=1)
    return order, order[:, : round(share * GRID * GRID)]
