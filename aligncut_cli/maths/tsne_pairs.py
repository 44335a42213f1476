"""The short-ranged part of the t-SNE repulsion in 3-D, pair by pair, so that the grid may be coarse (P3M).

A fitted 3-D map is thin: a point has about twenty others within the reach, while a grid that resolves the kernel has
hundreds of nodes per point. What is summed here is w times the share of its Gaussians that are narrow, Q(a, S (1 +
r^2 / dof)) with a = (dof + 1) / 2; the grid has the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from aligncut_cli.maths.lanes import ONE_LANE, Lanes, share_out, sum_in_order
from aligncut_cli.maths.scatter import add_at_

# Of the Gaussians exp(-s r^2) in the kernel those with s above this are short-ranged; beyond the reach they are
# dropped, which takes less than 1e-3 off the sum of the kernel over a map.
NARROW = 0.28
REACH = 4.05
_MOST_CELLS = 128
_TABLE = 1 << 16
# Pairs in a block: on a CPU they stay in its cache.
_BLOCK = {"cpu": 1 << 17, "cuda": 1 << 24}
_PARTS = 16  # in which the blocks are shared out


class NearPairs:
    """Sums the short-ranged part of the kernel over pairs, which are found anew for every map.

    In most steps some point moves as far as would make a list of pairs useless for the next.

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

    def sum(self, near: Neighbourhoods, lanes: Lanes = ONE_LANE) -> tuple[Tensor, Tensor]:
        """Potential of each point, its own part included, and gradient: (n,) and (d, n)."""
        total = near.restore(self.add_up(lanes.run(self.parts(near))))
        return total[0], total[1:]

    def parts(self, near: Neighbourhoods) -> list[partial[Tensor]]:
        """Return what has to be run for `add_up`."""
        return [partial(self._sum_some, near, near.blocks[part]) for part in share_out(len(near.blocks), _PARTS)]

    def add_up(self, parts: list[Tensor]) -> Tensor:
        """Return potential and gradient, (1 + d, n) in the order of the cells, from what the parts have returned."""
        total = sum_in_order(parts)
        total[0] += self._at_zero
        return total

    def _sum_some(self, near: Neighbourhoods, blocks: Sequence[slice]) -> Tensor:
        """Potential and gradient, (1 + d, n) in the order of the cells, that the pairs of some points make."""
        total = near.placed.new_zeros(1 + len(near.placed), near.placed.shape[1])
        for block in blocks:
            first, second, apart, square = near.find_pairs(block)
            entry = square.mul_(_TABLE / REACH**2).clamp_(max=_TABLE).to(torch.int32)
            kernel = torch.index_select(self._kernel, 0, entry)
            for ends in (first, second):
                add_at_(total[0], ends, kernel)
            slope = torch.index_select(self._slope, 0, entry)
            for axis, along in enumerate(apart, start=1):
                along.mul_(slope)
                add_at_(total[axis], first, along)
                add_at_(total[axis], second, along, alpha=-1)
        return total


@dataclass(frozen=True)
class Neighbourhoods:
    """Points in the order of their cells, and for each the runs of this order in which its neighbours are.

    order   : (n,) which point is at each place
    placed  : (d, n) coordinates in that order
    begins  : (n, runs) first place of each run
    lengths : (n, runs)
    blocks  : of places, each with about as many candidates
    reach   : of pairs
    """

    order: Tensor
    placed: Tensor
    begins: Tensor
    lengths: Tensor
    blocks: Sequence[slice]
    reach: float

    def restore(self, values: Tensor) -> Tensor:
        """Return values (k, n) of points in the order of the cells in that of the points."""
        return torch.empty_like(values).index_copy_(1, self.order, values)

    def find_pairs(self, block: slice) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Return places of both points of every near pair of some places, difference along each axis, and square."""
        runs = self.lengths[block]
        offset = self.begins[block].reshape(-1) - (runs.reshape(-1).cumsum(0) - runs.reshape(-1))
        place = torch.arange(block.start, block.stop, device=runs.device)
        first = torch.repeat_interleave(place, runs.sum(1))
        second = torch.repeat_interleave(offset, runs.reshape(-1))
        second += torch.arange(len(second), device=runs.device)
        apart = [torch.index_select(line, 0, first).sub_(torch.index_select(line, 0, second)) for line in self.placed]
        square = torch.zeros_like(apart[0])
        for along in apart:
            square.addcmul_(along, along)
        near = (square <= self.reach**2).nonzero()[:, 0]
        first, second, square = (torch.index_select(each, 0, near) for each in (first, second, square))
        return first, second, [torch.index_select(along, 0, near) for along in apart], square


def find_neighbourhoods(coords: Tensor, reach: float, *, most_candidates: int) -> Neighbourhoods | None:
    """Say where every pair of points within the reach is to be found once; None if that is among too many.

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
    after = torch.arange(1, n_points + 1, device=device)
    # A run from cell a to cell b starts where the cell before a stops.
    begins = torch.cat([after[:, None], stops[name[:, None] + shifts - 2]], dim=1)
    lengths = torch.cat([stops[name + 1][:, None], stops[name[:, None] + shifts + 1]], dim=1) - begins
    candidates = int(lengths.sum())
    if candidates > most_candidates:
        return None
    blocks = share_out(n_points, 1 + candidates // _BLOCK.get(device.type, 1 << 24))
    return Neighbourhoods(order, coords[:, order], begins, lengths, blocks, reach)
