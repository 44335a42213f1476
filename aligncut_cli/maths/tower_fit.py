"""Trains towers: epochs over the training images, until the loss of validation images no longer falls."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligncut_cli.maths.towers import Towers

Index = NDArray[np.int64]
_VALIDATION_BATCH = 512
_WARM_UP = 0.2
"""Share of the steps in which the learning rate rises; it then falls to nothing."""


@dataclass(frozen=True)
class Batch:
    """Photos (b, 3, side, side), responses (b, neurons) and categories (b,) of some images, on the device."""

    photos: Tensor
    responses: Tensor
    categories: Tensor


ReadBatch = Callable[[Index], Batch]


@dataclass(frozen=True)
class TowerSettings:
    """How towers are trained; names as in the parameters of `decode`."""

    epochs: int
    patience: int
    batch_images: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class TowerHistory:
    """Validation loss after every epoch, and the epoch, from 1, whose state was kept."""

    losses: list[float]
    kept: int


def train_towers(
    towers: Towers,
    read: ReadBatch,
    *,
    train: Index,
    validation: Index,
    settings: TowerSettings,
    seed: int,
    after_epoch: Callable[[int], None] | None = None,
) -> TowerHistory:
    """Train in place, and keep the state of the lowest validation loss.

    read             : the batch of some images
    train, validation: images, ascending
    seed             : of the order of images; dropout takes torch's own generator
    after_epoch      : called with the number of epochs done
    """
    size = min(settings.batch_images, len(train))
    per_epoch = max(1, len(train) // size)
    optimizer = torch.optim.AdamW(towers.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.epochs * per_epoch + 1, pct_start=_WARM_UP
    )
    losses: list[float] = []
    best, kept = copy.deepcopy(towers.state_dict()), 0
    for epoch in range(settings.epochs):
        order = np.random.default_rng([seed, 15, epoch]).permutation(train)
        towers.train()
        for start in range(0, per_epoch * size, size):
            batch = read(np.sort(order[start : start + size]))
            optimizer.zero_grad(set_to_none=True)
            towers.loss(batch.photos, batch.responses, batch.categories).backward()
            optimizer.step()
            schedule.step()
        losses.append(measure_loss(towers, read, validation))
        if after_epoch is not None:
            after_epoch(epoch + 1)
        if kept == 0 or losses[-1] < losses[kept - 1]:
            best, kept = copy.deepcopy(towers.state_dict()), epoch + 1
        elif epoch + 1 - kept >= settings.patience:
            break
    towers.load_state_dict(best)
    return TowerHistory(losses, kept)


@torch.no_grad()
def measure_loss(towers: Towers, read: ReadBatch, images: Index) -> float:
    """Return the mean loss over images, in batches of equal size where there are many."""
    towers.eval()
    parts = np.array_split(images, max(1, len(images) // _VALIDATION_BATCH))
    batches = (read(part) for part in parts)
    values = [float(towers.loss(batch.photos, batch.responses, batch.categories)) for batch in batches]
    return float(np.average(values, weights=[len(part) for part in parts]))
