"""How alike the slots' representations are up to a rotation (linear CKA) or any linear map (canonical correlation)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.products import inner_products
from aligncut_cli.maths.sampled_tokens import SampledTokens, SlotRows
from aligncut_cli.maths.slot_ridge import RowReader, SlotRidge

Array = NDArray[np.float64]


def compute_linear_cka(tokens: SampledTokens, *, debiased: bool, reader: RowReader) -> Array:
    """Linear centred kernel alignment of every pair of slots (Kornblith et al. 2019).

    ||X'Y||^2 / (||X'X|| ||Y'Y||) of centred rows, summed as inner products of the tokens' kernels XX' and YY', tile by
    tile: for a few thousand tokens that is far less work than a channels-by-channels matrix for each pair of slots.

    tokens   : those that all slots have are compared
    debiased : take out what the number of channels alone gives (unbiased HSIC; Song et al. 2012), so that unrelated
               slots have 0 on average; values may be slightly negative
    reader   : a tile has rows_per_block^2 entries of each slot
    returns  : (slots, slots) in -1 .. 1, diagonal 1; 0 where a slot is constant
    """
    slots = tokens.keep_common().slots
    n, side = len(slots[0]), reader.rows_per_block
    if n < 4:
        raise BadInput(f"{n} tokens are too few to compare slots by", do="Use more images.")
    scales = [_measure_mean_and_spread(slot, reader) for slot in slots]
    gram = torch.zeros(len(slots), len(slots), dtype=torch.float64, device=reader.device)
    norms = torch.zeros(len(slots), n, dtype=torch.float64, device=reader.device)
    for low in range(0, n, side):
        rows = slice(low, min(low + side, n))
        own = [_read_scaled(slot, rows, scale, reader) for slot, scale in zip(slots, scales, strict=True)]
        norms[:, rows] = torch.stack([values.double().square().sum(dim=1) for values in own])
        for left in range(low, n, side):
            columns = slice(left, min(left + side, n))
            tiles = [
                inner_products(values, _read_scaled(slot, columns, scale, reader)).flatten()
                for values, slot, scale in zip(own, slots, scales, strict=True)
            ]
            flat = torch.stack([tile.to(torch.promote_types(tiles[0].dtype, tile.dtype)) for tile in tiles])
            gram += (flat @ flat.T).double() * (1 if left == low else 2)
    if debiased:
        # Rows of the kernels sum to 0, so without their diagonals to minus these.
        diagonals, traces = norms @ norms.T, norms.sum(dim=1)
        gram += torch.outer(traces, traces) / ((n - 1) * (n - 2)) - diagonals * (n / (n - 2))
    size = gram.diagonal().clamp(min=0).sqrt()
    size = torch.where(size > 0, size, torch.inf)
    alignment = (gram / size[:, None] / size).clamp(-1, 1)
    alignment.fill_diagonal_(1)
    return np.asarray(alignment.cpu().numpy())


def compute_canonical_correlations(tokens: SampledTokens, *, keep: float, most: int, reader: RowReader) -> Array:
    """Mean canonical correlation of every pair of slots on their leading components (SVCCA; Raghu et al. 2017).

    tokens  : those that all slots have are compared; many more than components, or all slots correlate by chance
    keep    : share of a slot's variance that its components hold, such as 0.99
    most    : components of a slot at most
    returns : (slots, slots) in 0 .. 1, the mean over the smaller number of components; diagonal 1; 0 where a slot is
              constant
    """
    slots = tokens.keep_common().slots
    bases = [_whiten(SlotRidge.of(slot, reader), keep, most) for slot in slots]
    edges = np.cumsum([0, *(basis.shape[1] for _, basis in bases)])
    cross = torch.zeros(edges[-1], edges[-1], dtype=torch.float64, device=reader.device)
    for low in range(0, len(slots[0]), reader.rows_per_block):
        rows = slice(low, min(low + reader.rows_per_block, len(slots[0])))
        parts = [
            (reader.read(slot, rows, mean) @ basis.to(reader.dtype(slot))).double()
            for slot, (mean, basis) in zip(slots, bases, strict=True)
        ]
        whitened = torch.cat(parts, dim=1)
        cross += whitened.T @ whitened
    result = np.eye(len(slots))
    for i in range(len(slots)):
        for j in range(i + 1, len(slots)):
            block = cross[edges[i] : edges[i + 1], edges[j] : edges[j + 1]]
            if block.numel() > 0:
                result[i, j] = result[j, i] = float(torch.linalg.svdvals(block).clamp(max=1).mean())
    return result


def _whiten(slot: SlotRidge, keep: float, most: int) -> tuple[Tensor, Tensor]:
    """Mean (D,), and map (D, k) of centred tokens to orthonormal columns over all of them."""
    values, vectors = slot.eigenvalues.flip(0), slot.eigenvectors.flip(1)
    total = float(values.sum())
    needed = int((values.cumsum(0) < keep * total).sum()) + 1 if total > 0 else 0
    count = min(needed, most, int((values > 1e-10 * values[0]).sum()))
    return slot.mean, vectors[:, :count] / (values[:count] * len(slot.rows)).sqrt()


def _measure_mean_and_spread(slot: SlotRows, reader: RowReader) -> tuple[Tensor, float]:
    total = torch.zeros(slot.width, dtype=torch.float64, device=reader.device)
    for _, block in reader.blocks(slot):
        total += block.sum(dim=0, dtype=torch.float64)
    mean = total / len(slot)
    square = sum(float(block.double().square().sum()) for _, block in reader.blocks(slot, mean))
    return mean, (square / len(slot)) ** 0.5


def _read_scaled(slot: SlotRows, rows: slice, scale: tuple[Tensor, float], reader: RowReader) -> Tensor:
    mean, spread = scale
    return reader.read(slot, rows, mean) / (spread if spread > 0 else 1.0)
