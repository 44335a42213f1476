"""Each slot's ridge penalty, chosen by how well it predicts the other slots' consensus on validation images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligncut_cli.maths.consensus_targets import average_others, sum_mapped, sum_present_weights
from aligncut_cli.maths.ridge import PENALTIES
from aligncut_cli.maths.sampled_tokens import SampledTokens, SlotRows
from aligncut_cli.maths.slot_ridge import SlotRidge, map_rows

Array = NDArray[np.float64]

# A slot takes part only if it beats the mean on the validation images by this many standard errors.
_MIN_STANDARD_ERRORS = 2.0
_FINITE = [penalty for penalty in PENALTIES if penalty < float("inf")]


def choose_penalties(
    slots: Sequence[SlotRidge],
    weights: Array,
    maps: Sequence[Tensor],
    correlated: Sequence[Tensor],
    validation: SampledTokens,
) -> tuple[Array, Array]:
    """Choose among `ridge.PENALTIES`, slot by slot.

    slots      : their training tokens
    weights    : (slots,) of the average, and maps (D_i, K) of each slot to what is averaged
    correlated : per slot (D_i, K), `SlotRidge.correlate` of the others' consensus on the training tokens
    validation : tokens of other images
    returns    : (slots,) penalties relative to each slot's largest eigenvalue, infinite where none predicts better
                 than the mean by two standard errors over images; and (slots,) R2 over all axes, 0 where infinite
    """
    reader = slots[0].reader
    total = sum_mapped(validation, maps, [slot.mean for slot in slots], weights, reader)
    present = sum_present_weights(validation.slots, weights, len(validation), device=reader.device)
    image = torch.from_numpy(np.unique(validation.images, return_inverse=True)[1]).to(reader.device)
    penalties, scores = np.full(len(slots), np.inf), np.zeros(len(slots))
    for number, (slot, rows) in enumerate(zip(slots, validation.slots, strict=True)):
        target, known = average_others(total, present, rows, maps[number], slot.mean, float(weights[number]), reader)
        null = _sum_by_image(target.square().sum(dim=1, keepdim=True), image)
        gains = null - _measure_errors(slot, correlated[number], rows, target, known, image)
        best = int(gains.sum(dim=0).argmax())
        gain = gains[:, best]
        if float(gain.mean()) > _MIN_STANDARD_ERRORS * float(gain.std()) / len(gain) ** 0.5:
            penalties[number], scores[number] = _FINITE[best], float(gain.sum() / null.sum())
    return penalties, scores


def _measure_errors(
    slot: SlotRidge, correlated: Tensor, rows: SlotRows, target: Tensor, known: Tensor, image: Tensor
) -> Tensor:
    """Sum the squared errors of every finite penalty over the known tokens of each image; (images, penalties)."""
    n_axes = target.shape[1]
    # All penalties' maps side by side, so that the tokens are read once.
    maps = torch.cat([slot.solve(correlated, penalty) for penalty in _FINITE], dim=1)
    errors = torch.zeros(len(target), len(_FINITE), dtype=torch.float64, device=target.device)
    for places, mapped in map_rows(rows, maps, slot.mean, slot.reader):
        missed = mapped.view(len(mapped), len(_FINITE), n_axes) - target[places].to(mapped.dtype)[:, None]
        errors[places] = missed.square().sum(dim=2).double() * known[places][:, None]
    return _sum_by_image(errors, image)


def _sum_by_image(values: Tensor, image: Tensor) -> Tensor:
    """(n, k) values of tokens -> (images, k)."""
    return values.new_zeros(int(image.max()) + 1, values.shape[1]).index_add_(0, image, values)
