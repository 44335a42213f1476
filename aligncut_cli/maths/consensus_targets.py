"""What the slots agree on at each token: the weighted average of their mapped features, with any one left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligncut_cli.maths.sampled_tokens import SampledTokens, SlotRows
from aligncut_cli.maths.slot_ridge import RowReader, map_rows

# Weights sum to 1; what is left of their sum below this is rounding.
_NOTHING = 1e-9


def sum_present_weights(
    rows: Sequence[SlotRows], weights: NDArray[np.float64], n_tokens: int, *, device: torch.device
) -> Tensor:
    """Sum the weights of the slots that have each token: the diagonal of R; (n,) float64."""
    present = torch.zeros(n_tokens, dtype=torch.float64, device=device)
    for slot, weight in zip(rows, weights, strict=True):
        present[slice(None) if slot.places is None else torch.from_numpy(slot.places).to(device)] += float(weight)
    return present


def sum_mapped(
    tokens: SampledTokens,
    maps: Sequence[Tensor],
    means: Sequence[Tensor],
    weights: NDArray[np.float64],
    reader: RowReader,
) -> Tensor:
    """Sum w_i (X_i - mean_i) W_i over the slots that have each token; (n, K) float64.

    maps  : per slot (D_i, K)
    means : per slot (D_i,), of the training tokens
    """
    total = torch.zeros(len(tokens), maps[0].shape[1], dtype=torch.float64, device=reader.device)
    for slot, weight, mean, share in zip(tokens.slots, maps, means, weights, strict=True):
        if share > 0:
            for places, mapped in map_rows(slot, weight * float(share), mean, reader):
                total[places] += mapped
    return total


def average_others(
    total: Tensor, present: Tensor, rows: SlotRows, own_map: Tensor, mean: Tensor, weight: float, reader: RowReader
) -> tuple[Tensor, Tensor]:
    """Average of the mapped features of all slots but one: T_i = (total - w_i (X_i - mean) W_i) / (R - w_i).

    total   : (n, K) from `sum_mapped`
    present : (n,) from `sum_present_weights`
    rows    : of the slot that is left out, with its own_map (D, K), mean (D,) and weight
    returns : (n, K) float64, and (n,) bool: tokens that this slot and some other have; T is zero elsewhere
    """
    own = torch.zeros_like(total)
    has = torch.zeros(len(total), dtype=torch.bool, device=total.device)
    for places, mapped in map_rows(rows, own_map, mean, reader):
        own[places] = mapped.to(own.dtype)
        has[places] = True
    left = present - weight
    known = has & (left > _NOTHING)
    average = (total - weight * own) / torch.where(known, left, 1.0)[:, None]
    return torch.where(known[:, None], average, 0.0), known
