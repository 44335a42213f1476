"""How well a model sees: linear probes on its tokens and on their mean, layer by layer, on scenes it never saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aligncut_cli.demo.scenes import CATEGORIES
from demo_objectives.encoder import GRID, PATCH, to_input
from demo_objectives.scenes import Scenes

PROBE_SEED = 402_019
PROBE_SCENES = 3000


def probe_encoder(vit: Any, scenes: Scenes, *, patches_of: int = 450, iterations: int = 60) -> dict[str, list[float]]:
    """Score every layer on held-out scenes.

    patches_of : so many scenes are fitted for the patch probe, and so many others scored
    returns    : per layer: `category`, share of scenes of one object whose category is named from the mean token
                 (two thirds of those scenes fitted, a third scored); `patch`, mean IoU over the eight categories of
                 the patches' classes (nine with the ground); `figure`, mean IoU of figure and ground by that probe
    """
    single = np.array([k for k, record in enumerate(scenes.records) if len(record["objects"]) == 1])
    category = torch.tensor([CATEGORIES.index(scenes.records[k]["objects"][0]["category"]) for k in single])
    cut = len(single) * 2 // 3
    patches_of = min(patches_of, len(scenes.records) // 2)
    chosen = np.arange(2 * patches_of)
    classes = torch.from_numpy(name_patches(scenes.masks[chosen]))
    found: dict[str, list[float]] = {"category": [], "patch": [], "figure": []}
    for pooled, tokens in zip(_pool(vit, scenes, single), _tokens(vit, scenes, chosen), strict=True):
        guess = fit_and_name(pooled[:cut], category[:cut], pooled[cut:], iterations)
        found["category"].append(round(float((guess == category[cut:]).float().mean()), 4))
        half = patches_of * GRID * GRID
        flat = tokens.flatten(0, 1)
        guess = fit_and_name(flat[:half], classes.flatten()[:half], flat[half:], iterations)
        truth = classes.flatten()[half:]
        found["patch"].append(round(float(np.mean([iou(guess == k, truth == k) for k in range(1, 9)])), 4))
        figure = [iou((guess > 0) == side, (truth > 0) == side) for side in (True, False)]
        found["figure"].append(round(float(np.mean(figure)), 4))
    return found


def _pool(vit: Any, scenes: Scenes, chosen: np.ndarray) -> list[Tensor]:
    return [layer.mean(dim=1) for layer in _tokens(vit, scenes, chosen)]


@torch.no_grad()
def _tokens(vit: Any, scenes: Scenes, chosen: np.ndarray) -> list[Tensor]:
    """Patch tokens after every block, each (images, patches, width)."""
    parts: list[list[Tensor]] = [[] for _ in vit.blocks]
    for batch in _batches(scenes, chosen):
        for layer, tokens in enumerate(vit.forward_intermediates(batch, output_fmt="NLC", intermediates_only=True)):
            parts[layer].append(tokens)
    return [torch.cat(layer) for layer in parts]


def _batches(scenes: Scenes, chosen: np.ndarray, size: int = 64) -> Iterator[Tensor]:
    for first in range(0, len(chosen), size):
        yield to_input(scenes.pictures[chosen[first : first + size]])


def name_patches(masks: np.ndarray) -> np.ndarray:
    """Most frequent class of each patch (n, patches) of masks (n, 112, 112)."""
    n = len(masks)
    blocks = masks.reshape(n, GRID, PATCH, GRID, PATCH).transpose(0, 1, 3, 2, 4).reshape(n, GRID * GRID, -1)
    votes = np.stack([(blocks == k).sum(axis=2) for k in range(len(CATEGORIES) + 1)], axis=2)
    named: np.ndarray = votes.argmax(axis=2)
    return named


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two sets of patches; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def fit_and_name(features: Tensor, classes: Tensor, others: Tensor, iterations: int) -> Tensor:
    """Multinomial logistic regression (L-BFGS, small ridge) on standardized features; classes named for `others`."""
    mean, spread = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    number = int(classes.max()) + 1
    inputs = (features - mean) / spread
    weight = torch.zeros(features.shape[1], number, requires_grad=True)
    bias = torch.zeros(number, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(inputs @ weight + bias, classes) + 1e-4 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        return ((others - mean) / spread @ weight + bias).argmax(dim=1)
