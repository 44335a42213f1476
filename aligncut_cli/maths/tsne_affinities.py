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

# Of log beta within (-21, 41): leaves 6e-11.
_BISECTIONS = 40
# With more points a CPU looks through those of the nearest centres only, so many for each neighbour that is asked for:
# at 100,000 of 20 coordinates that takes a fifth of the time of exact search and finds .993 of the neighbours.
_EXACT_UP_TO = 30_000
_CENTRES, _CANDIDATES_PER_NEIGHBOUR = 1024, 33
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
    if rows.device.type == "cpu" and len(rows) > _EXACT_UP_TO:
        found = search_lists(rows, n_neighbors + 1)
    else:
        found = search_all(rows, rows, n_neighbors + 1)
    neighbours = drop_self(found)
    conditional = torch.empty(neighbours.shape, dtype=torch.float32, device=rows.device)
    block = max(1, _DIFFERENCES.get(rows.device.type, 1 << 26) // (neighbours.shape[1] * rows.shape[1]))
    for start in range(0, len(rows), block):
        near = neighbours[start : start + block]
        square = (rows[near].double() - rows[start : start + block, None].double()).square().sum(2)
        conditional[start : start + block] = calibrate_perplexity(square, perplexity)
    return Affinities(neighbours.to(torch.int32), conditional)


def search_all(queries: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the k nearest rows of each query, (n, k) int64, on the rows' device."""
    method = "flat" if rows.device.type == "cpu" else "torch"
    return build_search(rows, method=method, metric="euclidean", seed=0, device=rows.device).search(queries, k)[1]


def search_lists(rows: Tensor, k: int) -> Tensor:
    """Return nearly the k nearest rows of each row by FAISS's inverted file, (n, k) int64; on a CPU.

    The same ones on any number of threads.
    """
    import faiss

    values = (rows - rows.mean(dim=0)).numpy()
    quantizer = faiss.IndexFlatL2(rows.shape[1])  # which the index does not keep alive
    index = faiss.IndexIVFFlat(quantizer, rows.shape[1], _CENTRES)
    index.cp.min_points_per_centroid = 1  # FAISS says on the terminal that it would like more
    index.train(values)
    index.add(values)
    index.nprobe = min(_CENTRES, math.ceil(_CANDIDATES_PER_NEIGHBOUR * k * _CENTRES / len(rows)))
    found = torch.from_numpy(index.search(values, k)[1])
    few = (found < 0).any(dim=1)  # lists so short that they hold no k rows together
    if few.any():
        found[few] = search_all(rows[few], rows, k)
    return found


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
            np.arange(0, n_points * k + 1, k, dtype=np.int32 if n_points * k < 2**31 else np.int64),
        ),
        shape=(n_points, n_points),
    )
    both = (directed + directed.T).data
    both = both[both > 0]
    return float(both.sum()), float((both * np.log(both)).sum())
