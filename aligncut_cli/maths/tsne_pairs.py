"""The short-ranged part of the t-SNE repulsion in 3-D, pair by pair, so that the grid may be coarse (P3M).

A fitted 3-D map is thin: a point has about twenty others within the reach, while a grid that resolves the kernel has
hundreds of nodes per point. What is summed here is w times the share of its Gaussians that are narrow, Q(a, S (1 +
r^2 / dof)) with a = (dof + 1) / 2; the grid has the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aligncut_cli.maths.scatter import add_at_

# Of the Gaussians exp(-s r^2) in the kernel those with s above this are short-ranged; beyond the reach they are
# dropped, which takes 3e-4 off the sum of the kernel over a fitted map.
NARROW = 0.5
REACH = 3.0
# A list of pairs also has those that are this much beyond the reach, and is kept until some point has moved half of
# it.
_SKIN = 0.5
# Pairs to look at per point, at most; a denser map is narrow enough for a fine grid.
_MOST_CANDIDATES = 256
_MOST_CELLS = 128
_TABLE = 1 << 16
# Pairs in a block: on a CPU they stay in its cache.
_BLOCK = {"cpu": 1 << 17, "cuda": 1 << 24}


class NearPairs:
    """Sums the short-ranged part of the kernel over pairs; keeps their list while points move little.

    dof    : degrees of freedom of the kernel
    device : of the coordinates
    """

    def __init__(self, *, dof: int, device: torch.device) -> None:
        exponent = (dof + 1) / 2
        square = (torch.arange(_TABLE, dtype=torch.float64) + 0.5) * (REACH**2 / _TABLE)
        base = 1 + square / dof
        order = torch.full_like(base, exponent)
        kernel = base**-exponent * torch.special.gammaincc(order, NARROW * dof * base)
        # d/dr^2 of base^-a Q(a, S base) is -a / dof base^-(a + 1) Q(a + 1, S base).
        slope = -2 * exponent / dof * base ** (-exponent - 1) * torch.special.gammaincc(order + 1, NARROW * dof * base)
        self._kernel, self._slope = (
            torch.cat([values, values.new_zeros(1)]).to(device, torch.float32) for values in (kernel, slope)
        )
        self._at_zero = float(torch.special.gammaincc(order[:1], torch.full_like(order[:1], NARROW * dof)))
        self._built_at: Tensor | None = None
        self._pairs = torch.empty(2, 0, dtype=torch.int32, device=device)

    def refresh(self, coords: Tensor) -> bool:
        """Look for pairs again if points have moved; say whether there are few enough.

        coords : (d, n) float32
        """
        if self._built_at is not None and self._built_at.shape == coords.shape:
            moved = (coords - self._built_at).square().sum(0).amax().sqrt()
            if float(moved) < _SKIN / 2:
                return True
        pairs = find_near_pairs(coords, REACH + _SKIN, most_candidates=_MOST_CANDIDATES * coords.shape[1])
        self._built_at = None if pairs is None else coords.clone()
        if pairs is not None:
            self._pairs = pairs
        return pairs is not None

    def sum(self, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Potential of each point, its own part included, and gradient: (n,) and (d, n); the list must be fresh.

        coords : (d, n) float32
        """
        potential = torch.full_like(coords[0], self._at_zero)
        gradient = torch.zeros_like(coords)
        for first, second in self._pairs.split(_BLOCK.get(coords.device.type, 1 << 24), dim=1):
            apart = [torch.index_select(along, 0, first).sub_(torch.index_select(along, 0, second)) for along in coords]
            square = torch.stack(apart).square_().sum(0)
            entry = square.mul_(_TABLE / REACH**2).clamp_(max=_TABLE).to(torch.int32)
            kernel = torch.index_select(self._kernel, 0, entry)
            for ends in (first, second):
                add_at_(potential, ends, kernel)
            slope = torch.index_select(self._slope, 0, entry)
            for axis, along in enumerate(apart):
                along.mul_(slope)
                add_at_(gradient[axis], first, along)
                add_at_(gradient[axis], second, along, alpha=-1)
        return potential, gradient


def find_near_pairs(coords: Tensor, reach: float, *, most_candidates: int) -> Tensor | None:
    """Every pair of points within the reach, once: (2, pairs) int32; None if too many would have to be looked at.

    Points are sorted by cell. The cells around one are runs of three along the last axis, each one range of sorted
    points; half of the runs and the rest of the own one hold every pair once.

    coords : (d, n) float32
    """
    n_dims, n_points = coords.shape
    device = coords.device
    low = coords.amin(1, keepdim=True)
    width = max(reach, float((coords - low).amax()) / _MOST_CELLS)
    cell = (
        (coords - low) / width
    ).floor().long() + 1  # a rim of empty cells, so that none is next to one across the map
    side = int(cell.amax()) + 2
    name = torch.zeros_like(cell[0])
    shifts = torch.zeros(1, dtype=torch.int64, device=device)
    for axis in range(n_dims):
        name = name * side + cell[axis]
        if axis < n_dims - 1:
            shifts = (shifts[:, None] * side + torch.arange(-1, 2, device=device)).reshape(-1)
    shifts = shifts[len(shifts) // 2 + 1 :] * side
    order = name.argsort(stable=True)
    name = name[order]
    stops = torch.bincount(name, minlength=side**n_dims).cumsum(0)
    place = torch.arange(n_points, device=device)
    # A run from cell a to cell b starts where the cell before a stops.
    begins = torch.cat([(place + 1)[:, None], stops[name[:, None] + shifts - 2]], dim=1)
    lengths = torch.cat([stops[name + 1][:, None], stops[name[:, None] + shifts + 1]], dim=1) - begins
    candidates = int(lengths.sum())
    if candidates > most_candidates:
        return None
    placed = coords[:, order]
    found = []
    block = max(1, _BLOCK.get(device.type, 1 << 24) * n_points // max(1, candidates))
    for start in range(0, n_points, block):
        runs = lengths[start : start + block]
        offset = begins[start : start + block].reshape(-1) - (runs.reshape(-1).cumsum(0) - runs.reshape(-1))
        first = torch.repeat_interleave(place[start : start + block], runs.sum(1))
        second = torch.repeat_interleave(offset, runs.reshape(-1))
        second += torch.arange(len(second), device=device)
        square = torch.zeros_like(first, dtype=coords.dtype)
        for along in placed:
            apart = torch.index_select(along, 0, first).sub_(torch.index_select(along, 0, second))
            square.addcmul_(apart, apart)
        near = (square <= reach**2).nonzero()[:, 0]
        found.append(torch.stack([order[first[near]], order[second[near]]]).to(torch.int32))
    return torch.cat(found, dim=1)
