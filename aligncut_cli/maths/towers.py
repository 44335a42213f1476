"""Two towers that meet in maps: a small network of photos, a linear one of neurons, and what each objective asks."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = 8
"""Rows and columns of the maps."""
WIDTH = 24
"""Filters of the first layer."""
_FIRST_SCALE, _MOST_SCALE = 10.0, 100.0
"""Of cosines in the contrastive loss: at the start, and at most."""


class BothSigns(nn.Module):
    """Positive and negative parts as channels of their own, as of cells that answer to light and to dark."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (b, 2 channels, h, w)."""
        return torch.cat([F.relu(x), F.relu(-x)], dim=1)


def make_image_tower(channels: int) -> nn.Sequential:
    """Return a network from photos (b, 3, side, side) to maps (b, channels, GRID, GRID), of about 70,000 weights."""
    wide = 2 * WIDTH
    return nn.Sequential(
        nn.Conv2d(3, WIDTH, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(WIDTH),
        BothSigns(),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.Conv2d(wide, wide, 3, padding=1, bias=False),
        nn.BatchNorm2d(wide),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(GRID),
        nn.Conv2d(wide, wide, 3, padding=1, bias=False),
        nn.BatchNorm2d(wide),
        nn.GELU(),
        nn.Conv2d(wide, channels, 1),
    )


class Towers(nn.Module):
    """Both towers; `objective` names what they are trained for, one of OBJECTIVES.

    neurons    : how many respond; their tower is linear without offset, as responses have mean 0
    categories : how many there are, for the objective `classes`
    """

    def __init__(self, *, neurons: int, channels: int, dropout: float, objective: str, categories: int = 0) -> None:
        super().__init__()
        size = channels * GRID * GRID
        self.image = make_image_tower(channels)
        self.neural = nn.Linear(neurons, size, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(size, categories) if objective == "classes" else None
        self.log_scale = nn.Parameter(torch.tensor(_FIRST_SCALE).log())
        self.objective = objective

    def loss(self, photos: Tensor, responses: Tensor, categories: Tensor) -> Tensor:
        """Return the objective's loss of a batch.

        photos     : (b, 3, side, side)
        responses  : (b, neurons)
        categories : (b,), looked at by `classes` only
        """
        return OBJECTIVES[self.objective](self, photos, responses, categories)


def _contrast(towers: Towers, photos: Tensor, responses: Tensor, categories: Tensor) -> Tensor:
    """Symmetric InfoNCE: every response is to name its image among the batch, and every image its response."""
    images = towers.image(photos).flatten(1)
    neural = towers.neural(towers.dropout(responses))
    scale = towers.log_scale.exp().clamp(max=_MOST_SCALE)
    return contrast_maps(images, neural, scale)


def contrast_maps(images: Tensor, neural: Tensor, scale: Tensor) -> Tensor:
    """Mean of the cross-entropies of rows and of columns of scaled cosines of maps less their mean over the batch.

    images, neural : (b, d) flat maps, in the same order
    scale          : inverse temperature
    """
    images, neural = (F.normalize(maps - maps.mean(dim=0), dim=1) for maps in (images, neural))
    logits, own = scale * images @ neural.T, torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _regress(towers: Towers, photos: Tensor, responses: Tensor, categories: Tensor) -> Tensor:
    """Mean squared error of responses that are read out of images' maps by the neurons' own weights, transposed."""
    images = towers.image(photos).flatten(1)
    return F.mse_loss(towers.dropout(images - images.mean(dim=0)) @ towers.neural.weight, responses)


def _classify(towers: Towers, photos: Tensor, responses: Tensor, categories: Tensor) -> Tensor:
    """Mean cross-entropy of one head that names the category from either tower's maps."""
    if towers.head is None:
        raise ValueError("there is no head to classify by")
    images = towers.image(photos).flatten(1)
    neural = towers.neural(towers.dropout(responses))
    logits = towers.head(images), towers.head(neural)
    return (F.cross_entropy(logits[0], categories) + F.cross_entropy(logits[1], categories)) / 2


OBJECTIVES: dict[str, Callable[[Towers, Tensor, Tensor, Tensor], Tensor]] = {
    "contrastive": _contrast,
    "regression": _regress,
    "classes": _classify,
}
