"""Affinities of t-SNE: Gaussians over the nearest neighbours that give each point the same perplexity.

Maaten and Hinton 2008, with the neighbours alone as in Maaten 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from aligncut_cli.maths.neighbours import build_search

# Of log beta within (-21, 41): leaves 2e-13.
_BISECTIONS = 48
# Coordinates of differences between points and their neighbours that are held at once, in float64.
_DIFFERENCES = {"cpu": 1 << 21, "cuda": 1 << 26}


@dataclass(frozen=True)
class Affinities:
    """Conditional probabilities p_j|i of each point's neighbours; the affinity is p_ij = (p_j|i + p_i|j) / 2n.

    neighbours  : (n, k) int32
    conditional : (n, k) float32, rows sum to 1
    """

    neighbours: Tensor
    conditional: Tensor


def find_affinities(rows: Tensor, perplexity: float, *, n_neighbors: int) -> Affinities:
    """Conditional probabilities of the nearest neighbours, by Gaussians that give each point the same perplexity.

    rows : (n, C) float32, on the device to compute on
    """
    method = "flat" if rows.device.type == "cpu" else "torch"
    search = build_search(rows, method=method, metric="euclidean", seed=0, device=rows.device)
    _, found = search.search(rows, n_neighbors + 1)
    neighbours = drop_self(found)
    conditional = torch.empty(neighbours.shape, dtype=torch.float32, device=rows.device)
    block = max(1, _DIFFERENCES.get(rows.device.type, 1 << 26) // (neighbours.shape[1] * rows.shape[1]))
    for start in range(0, len(rows), block):
        near = neighbours[start : start + block]
        square = (rows[near].double() - rows[start : start + block, None].double()).square().sum(2)
        conditional[start : start + block] = calibrate_perplexity(square, perplexity)
    return Affinities(neighbours.to(torch.int32), conditional)


def drop_self(found: Tensor) -> Tensor:
    """Leave each point out of its own neighbours, or the last one where equal points have crowded it out.

    found   : (n, k + 1) int64 indices
    returns : (n, k)
    """
    itself = found == torch.arange(len(found), device=found.device)[:, None]
    itself[:, -1] |= ~itself.any(dim=1)
    return found[~itself].view(len(found), -1)


def calibrate_perplexity(square_distances: Tensor, perplexity: float) -> Tensor:
    """Weigh each row by exp(-beta d^2) / sum, with beta such that the exponential of the entropy is the perplexity.

    A row with more zero distances than the perplexity cannot have it; it gets equal weights for those.

    square_distances : (n, k) float64, in any unit
    returns          : (n, k) float64, rows sum to 1
    """
    excess = square_distances - square_distances.amin(1, keepdim=True)
    unit = excess.mean(1, keepdim=True)
    excess /= torch.where(unit > 0, unit, 1.0)
    target = math.log(perplexity)
    low = torch.full_like(unit, math.log(1e-9))
    high = torch.full_like(unit, math.log(1e18))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        beta = middle.exp()
        weights = torch.exp(-beta * excess)
        total = weights.sum(1, keepdim=True)
        entropy = total.log() + beta * (weights * excess).sum(1, keepdim=True) / total
        low = torch.where(entropy > target, middle, low)
        high = torch.where(entropy > target, high, middle)
    weights = torch.exp(-((low + high) / 2).exp() * excess)
    return weights / weights.sum(1, keepdim=True)


def information_of(affinities: Affinities) -> tuple[float, float]:
    """Sum of p_ij, which is one up to rounding, and of p_ij log p_ij."""
    n_points, k = affinities.neighbours.shape
    directed = sparse.csr_array(
        (
            affinities.conditional.cpu().double().numpy().ravel() / (2 * n_points),
            affinities.neighbours.cpu().numpy().ravel(),
            np.arange(0, n_points * k + 1, k),
        ),
        shape=(n_points, n_points),
    )
    both = (directed + directed.T).data
    both = both[both > 0]
    return float(both.sum()), float((both * np.log(both)).sum())
