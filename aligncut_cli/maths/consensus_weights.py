"""Weights of the slots in their consensus: a slot given twice counts once, one that predicts nothing not at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.maths.slot_ridge import SlotRidge, map_rows

Array = NDArray[np.float64]

# Random directions that the overlap of two projectors is estimated from.
_PROBES = 32


def estimate_overlap(slots: Sequence[SlotRidge], penalties: Array, n_tokens: int, *, seed: int) -> Array:
    """tr(P_i P_j) / sqrt(tr(P_i P_i) tr(P_j P_j)) of the regularized projectors: 1 where j is a linear map of i.

    Estimated from the projections of a few random vectors (Hutchinson 1990), the same for all slots, so that it is
    exactly 1 for a copy.

    penalties : (slots,) relative to each slot's largest eigenvalue; an infinite one overlaps with itself only
    returns   : (slots, slots)
    """
    device = slots[0].reader.device
    generator = torch.Generator().manual_seed(seed)
    probes = torch.randn(n_tokens, _PROBES, generator=generator, dtype=torch.float64).to(device)
    projected = torch.zeros(len(slots), n_tokens, _PROBES, device=device)
    for number, (slot, penalty) in enumerate(zip(slots, penalties, strict=True)):
        if penalty < np.inf:
            weight = slot.solve(slot.correlate(probes), float(penalty))
            for places, mapped in map_rows(slot.rows, weight, slot.mean, slot.reader):
                projected[number, places] = mapped.float()
    flat = projected.flatten(1)
    gram = (flat @ flat.T).double().cpu().numpy()
    size = np.sqrt(gram.diagonal())
    overlap = gram / np.where(size > 0, size, 1)[:, None] / np.where(size > 0, size, 1)
    np.fill_diagonal(overlap, 1)
    return np.asarray(overlap.clip(0, 1))


def estimate_overlap_memory(n_tokens: int, n_slots: int) -> int:
    """Say how many bytes `estimate_overlap` needs beside the slots."""
    return _PROBES * n_tokens * (4 * n_slots + 3 * 8)


def weigh_slots(overlap: Array, reliability: Array) -> Array:
    """w_i proportional to r_i / sum_j s_ij, so that a slot given twice counts once and one without signal not at all.

    s_ij is the square of the overlap beyond that with the slots least alike: sharing the consensus is no redundancy,
    and near relatives count more than distant ones.

    overlap     : (slots, slots) in 0 .. 1, diagonal 1
    reliability : (slots,) r, at least 0, some above
    returns     : (slots,) that sum to 1
    """
    used = np.flatnonzero(reliability > 0)
    among = overlap[np.ix_(used, used)]
    least = among.min(axis=1)
    common = np.sqrt(np.outer(least, least))
    distinct = common < 1
    excess = np.where(distinct, (among - common) / np.where(distinct, 1 - common, 1), 1)
    weights = np.zeros(len(reliability))
    weights[used] = reliability[used] / np.square(excess.clip(0, 1)).sum(axis=1)
    return np.asarray(weights / weights.sum())
