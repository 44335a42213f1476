"""Slots that see one planted latent through maps of their own, each with private directions beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.maths.sampled_tokens import SampledTokens, SlotRows
from aligncut_cli.maths.sampling import stable_hash
from aligncut_cli.maths.slot_ridge import RowReader, SlotRidge

Array = NDArray[np.float64]
CPU = torch.device("cpu")
READER = RowReader(CPU, 64)


def lay_out(n_images: int, n_positions: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Image and position of every token of a full product."""
    return np.repeat(np.arange(n_images), n_positions), np.tile(np.arange(n_positions), n_images)


def plant_slots(
    latent: Array, widths: Sequence[int], *, seed: int, private: float = 1.0, noise: float = 0.05
) -> list[Array]:
    """Mix the latent and as many private directions as fill the width by a random invertible map, and move the mean.

    latent  : (n, L)
    returns : per slot (n, width)
    """
    slots = []
    for number, width in enumerate(widths):
        rng = np.random.default_rng([seed, number])
        own = private * rng.standard_normal((len(latent), width - latent.shape[1]))
        basis = np.linalg.qr(rng.standard_normal((width, width)))[0] * rng.uniform(0.5, 2, width)
        mixed = np.concatenate([latent, own], axis=1) @ basis
        slots.append(mixed + noise * rng.standard_normal(mixed.shape) + 3 * rng.standard_normal(width))
    return slots


def take_images(slots: Sequence[Array], images: Array, positions: Array, chosen: Sequence[int]) -> SampledTokens:
    """Tokens of some images."""
    rows = np.isin(images, chosen)
    return SampledTokens(tuple(SlotRows(slot[rows]) for slot in slots), images[rows], positions[rows])


def decompose(tokens: SampledTokens, reader: RowReader = READER) -> list[SlotRidge]:
    return [SlotRidge.of(slot, reader) for slot in tokens.slots]


def name_keys(n_slots: int) -> list[np.uint64]:
    return [stable_hash(0, "model", number) for number in range(n_slots)]


def largest_angle(a: Array, b: Array) -> float:
    """Sine of the largest principal angle between the spans of the columns (of the smaller to the larger)."""
    a, b = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    cosines = np.linalg.svd(a.T @ b, compute_uv=False)
    return float(np.sqrt(max(0.0, 1 - cosines.min() ** 2)))
