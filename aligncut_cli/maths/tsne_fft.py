"""The repulsive half of the t-SNE gradient in O(n), for 2-D and 3-D maps: points to a spline grid, FFT, and back.

FIt-SNE (Linderman et al. 2019) interpolates the kernel by local polynomials and convolves on the grid. Here they are
cubic B-splines, so the potential phi(y) = sum_j w(|y - y_j|) comes out smooth and its gradient, which is the
repulsive force, needs no transform of its own: one FFT and its inverse in place of one pair per charge. In 3-D the
zeros that keep a convolution from wrapping around would be 7/8 of the grid; so the kernel is split, as in multilevel
summation (Hardy et al. 2015), into a short-ranged part, which needs only a margin, and a smooth rest on a grid four
times coarser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from aligncut_cli.maths.lanes import ONE_LANE, Lanes, share_out, sum_in_order
from aligncut_cli.maths.scatter import add_at_
from aligncut_cli.maths.tsne_pairs import NARROW, REACH, NearPairs, Neighbourhoods, find_neighbourhoods

# Spacings of the grid in units of the map. The fine one has errors of 1e-3 of the forces' root mean square in 2-D and
# 5e-3 in 3-D. There, from so many cells along an axis on, the near pairs are summed one by one and the grid may be
# wider, with errors of 5e-3, if there are fewer to look at than cells of the fine one: both take as long; and no more
# than so many per point. A denser map has the fine one up to so many cells, or else the coarse one: 2e-2.
_FINE = {2: 0.25, 3: 0.35}
_PAIRS_FROM_CELLS = 64
_WITH_PAIRS = 1.0
_MOST_CANDIDATES = 250  # per point
_FINE_UP_TO_CELLS = 240
_COARSE = 0.5
# Cells along an axis at most, which bounds the memory to 1 GiB in 2-D and 2 GiB in 3-D; a map still wider gets
# wider ones.
_MOST_CELLS = {2: 4096, 3: 320}
# A map narrower than the kernel still gets this many cells, as its forces then vary with its own width.
_FEWEST_CELLS = 16
# The short-ranged part fades as exp(-_SPLIT lag^2), lag in cells; beyond _MARGIN cells it is under 1e-3 of the
# kernel.
_SPLIT = 0.015
_MARGIN = 24
# Up to here the zeros around the whole kernel cost no more; always so where the spacing is finer than the finest.
_ONE_LEVEL_UP_TO = 32
# Points in a block, 4^d nodes each: on a CPU they stay in its cache.
_BLOCK = {"cpu": 4096, "cuda": 1 << 18}
# Slabs of the grid that are transformed one by one: on a CPU they stay in its cache, and lanes share them out.
_SLABS = {"cpu": 32}


@dataclass(frozen=True)
class Repulsion:
    """The pair sums of a map: phi_i = sum_j w_ij with j = i included, and its gradient.

    potential : (n,) float32
    gradient  : (d, n) float32, of phi at y_i with the other points held
    spacing   : of the grid used, 0 where there was none
    """

    potential: Tensor
    gradient: Tensor
    spacing: float


def degrees_of_freedom(n_dims: int) -> int:
    """Of the Student kernel w = (1 + r^2 / dof)^(-(dof + 1) / 2): d - 1 (Maaten 2009), as scikit-learn has it."""
    return max(n_dims - 1, 1)


def repel_exactly(coords: Tensor, lanes: Lanes = ONE_LANE) -> Repulsion:
    """Sum the kernel over all pairs by tiles of a distance matrix, O(n^2).

    coords : (d, n) float32
    lanes  : that share the tiles out
    """
    n_dims, n_points = coords.shape
    dof = degrees_of_freedom(n_dims)
    tile = max(1, (1 << 18 if coords.device.type == "cpu" else 1 << 26) // n_points)
    square = coords.square().sum(0)
    ones_and_coords = torch.cat([torch.ones_like(coords[:1]), coords])
    potential, gradient = torch.empty_like(square), torch.empty_like(coords)

    def fill(some: slice) -> None:
        rows = coords[:, some]
        base = torch.addmm(square / dof + 1, rows.T, coords, alpha=-2 / dof) + (square[some, None] / dof)
        share = base.clamp_(min=1.0).reciprocal_()
        kernel = share if dof == 1 else share ** ((dof + 1) / 2)
        potential[some] = kernel.sum(1)
        sums = ones_and_coords @ (kernel * share).T
        gradient[:, some] = (sums[1:] - rows * sums[0]) * ((dof + 1) / dof)

    lanes.run([partial(fill, some) for some in share_out(n_points, -(-n_points // tile))])
    return Repulsion(potential, gradient, 0.0)


class GridRepulsion:
    """Sums the kernel over all pairs on a grid; keeps the kernel's spectra from step to step, as a map grows slowly.

    n_dims : 2 or 3
    device : of the coordinates
    lanes  : that share out the points, and the grid
    """

    def __init__(self, *, n_dims: int, device: torch.device, lanes: Lanes = ONE_LANE) -> None:
        self._n_dims, self._device, self._lanes = n_dims, device, lanes
        self._dof = degrees_of_freedom(n_dims)
        self._nodes, self._spacing, self._offset = 0, 0.0, 0.0
        self._near = self._far = self._coarsen = torch.empty(0)
        self._pairs = NearPairs(dof=self._dof, device=device)
        self._with_pairs = False

    def repel(self, coords: Tensor) -> Repulsion:
        """Sum over all pairs in O(n + nodes); by `repel_exactly` where there are fewer pairs than nodes.

        coords : (d, n) float32
        """
        n_points = coords.shape[1]
        low = coords.amin(1, keepdim=True)
        span = float((coords.amax(1, keepdim=True) - low).amax())
        if span == 0.0:
            return Repulsion(torch.full_like(coords[0], n_points), torch.zeros_like(coords), 0.0)
        spacing, near = self._choose_spacing(coords, span)
        spacing, nodes = self._size_grid(span, spacing)
        if n_points**2 <= nodes**self._n_dims:
            return repel_exactly(coords, self._lanes)
        self._prepare(spacing, nodes, with_pairs=near is not None)
        # With nodes that stay where they are, the steps descend one smooth approximation of the divergence; nodes
        # that moved with the map's rim would add noise.
        low = (low / self._spacing).floor() * self._spacing
        # Points in the order of their cells find each other's nodes in the cache.
        placed = coords if near is None else near.placed
        blocks = placed.split(_BLOCK.get(coords.device.type, 1 << 18), dim=1)
        halves = share_out(len(blocks), 2)
        spread = [partial(self._spread, blocks[half], low) for half in halves]
        parts = self._lanes.run([*spread, *(self._pairs.parts(near) if near is not None else [])])
        field = self._convolve_kernel(sum_in_order(parts[: len(halves)])).reshape(-1)
        found = torch.cat(self._lanes.run([partial(self._read, field, block, low) for block in blocks]), dim=1)
        found[0].add_(self._offset * n_points)
        found[1:].div_(spacing)
        if near is not None:
            found = near.restore(found.add_(self._pairs.add_up(parts[len(halves) :])))
        return Repulsion(found[0], found[1:], spacing)

    def _spread(self, blocks: Sequence[Tensor], low: Tensor) -> Tensor:
        """Density of the points on the grid, (nodes,) * d."""
        charges = low.new_zeros(self._nodes**self._n_dims)
        for block in blocks:
            at, fraction = self._locate(block, low)
            add_at_(charges, at.reshape(-1), _outer_product(_spline(fraction)).reshape(-1))
        return charges.view([self._nodes] * self._n_dims)

    def _read(self, field: Tensor, block: Tensor, low: Tensor) -> Tensor:
        """Potential and its gradient in cells at some points, (1 + d, n), from the coefficients of all nodes."""
        at, fraction = self._locate(block, low)
        values = torch.index_select(field, 0, at.reshape(-1)).view(at.shape)
        potential, gradient = _interpolate(values, _spline(fraction), _spline_slope(fraction))
        return torch.cat([potential[None], gradient])

    def _choose_spacing(self, coords: Tensor, span: float) -> tuple[float, Neighbourhoods | None]:
        """Spacing in units of the map, and where the near pairs are if these are summed one by one."""
        fine = _FINE[self._n_dims]
        cells = span / fine
        if self._n_dims == 2 or cells <= _PAIRS_FROM_CELLS:
            return fine, None
        most = int(min(cells**3, _MOST_CANDIDATES * coords.shape[1]))
        near = find_neighbourhoods(coords, REACH, most_candidates=most)
        if near is not None:
            return _WITH_PAIRS, near
        return (fine if cells <= _FINE_UP_TO_CELLS else _COARSE), None

    def _size_grid(self, span: float, spacing: float) -> tuple[float, int]:
        """Spacing, this one if it will do, and nodes along an axis; in coarse steps so that spectra can be kept."""
        if span < spacing * _FEWEST_CELLS:
            halvings = math.ceil(2 * math.log2(spacing * _FEWEST_CELLS / span)) / 2
            spacing *= 2.0**-halvings
        doublings = max(0, math.ceil(4 * math.log2(span / spacing / _MOST_CELLS[self._n_dims]))) / 4
        spacing *= 2.0**doublings
        return spacing, 8 * math.ceil((span / spacing + 5) / 8)

    def _prepare(self, spacing: float, nodes: int, *, with_pairs: bool) -> None:
        """Make the spectra of the kernel's parts on this grid, unless they are there."""
        if (nodes, spacing, with_pairs) == (self._nodes, self._spacing, self._with_pairs):
            return
        self._nodes, self._spacing, self._with_pairs, self._offset = nodes, spacing, with_pairs, 0.0
        if nodes <= _ONE_LEVEL_UP_TO and not with_pairs:
            # Only differences of the potential are forces. Where all pairs are close, all kernel values are nearly
            # one and float32 would lose their differences; so what they have in common is left out.
            self._offset = float((1 + (nodes * spacing) ** 2 / self._dof) ** (-(self._dof + 1) / 2))
            self._near = self._spectrum(_fast_size(2 * nodes), spacing, part="all")
            self._far = self._coarsen = torch.empty(0)
        else:
            once = _coarsening(nodes)
            self._coarsen = (_coarsening(len(once)) @ once).to(self._device)
            self._near = self._spectrum(_fast_size(nodes + _MARGIN), spacing, part="near")
            self._far = self._spectrum(_fast_size(2 * len(self._coarsen)), 4 * spacing, part="far")

    def _spectrum(self, size: int, spacing: float, *, part: str) -> Tensor:
        """Transform one part of the kernel, filtered for spline coefficients on both sides.

        returns : (size, ..., size // 2 + 1) float32; real, as the kernel is even
        """
        # Squared lags are whole multiples of the squared spacing, far fewer of them than nodes.
        lag = torch.arange(size // 2 + 1, device=self._device)
        lags = lag**2
        for _ in range(self._n_dims - 1):
            lags = lags[..., None] + lag**2
        square = torch.arange(int(lags.amax()) + 1, device=self._device, dtype=torch.float64) * spacing**2
        base = 1 + square / self._dof
        exponent = (self._dof + 1) / 2
        kernel = base**-exponent - self._offset
        if part != "all":
            # w is a mixture of Gaussians exp(-s r^2 / dof) weighted s^(exponent - 1) exp(-s). The wide ones, s <
            # split, are far, and the narrow ones are summed by pairs.
            order, split = torch.full_like(base, exponent), _SPLIT * self._dof / self._spacing**2
            share = torch.special.gammaincc if part == "near" else torch.special.gammainc
            weight = share(order, split * base)
            if part == "near" and self._with_pairs:
                weight -= torch.special.gammaincc(order, NARROW * self._dof * base)
            kernel = kernel * weight
        # Least squares: of all kernels between splines, the nearest to this one. A spline has the spectrum sinc^4;
        # its products with its own shifts are the spline of order 8 at the nodes.
        angle = 2 * math.pi * (lag[:, None] * lag % size).double() / size
        one, two, three = (torch.cos(k * angle[1]) for k in (1, 2, 3))
        overlap = (2416 + 2382 * one + 240 * two + 2 * three) / 5040
        prefilter = (torch.sinc(lag.double() / size) ** 4 / overlap) ** 2
        # The kernel is even along each axis, and so its transform there a sum of cosines; all lags but the first and
        # the last come twice.
        twice = torch.where((lag == 0) | (lag == size // 2), 1.0, 2.0)
        cosines = prefilter[:, None] * torch.cos(angle) * twice
        spectrum = kernel[lags]
        for _ in range(self._n_dims):
            spectrum = torch.tensordot(spectrum, cosines, dims=([0], [1]))
        unfold = torch.arange(size, device=self._device)
        unfold = torch.minimum(unfold, size - unfold)
        spectrum = spectrum.to(torch.float32)
        for axis in range(self._n_dims - 1):
            spectrum = spectrum.index_select(axis, unfold)
        return spectrum

    def _convolve_kernel(self, charges: Tensor) -> Tensor:
        """Spline coefficients of the potential from those of the density, both (nodes,) * d."""
        field = _convolve(charges, self._near, self._lanes)
        if self._far.numel():
            far = _convolve(self._turn_each_axis(charges, self._coarsen), self._far, self._lanes)
            self._turn_each_axis(far, self._coarsen.T, onto=field)
        return field

    def _turn_each_axis(self, values: Tensor, matrix: Tensor, onto: Tensor | None = None) -> Tensor:
        """Multiply each axis by a matrix, slab by slab of the first.

        values  : (n,) * d
        matrix  : (m, n)
        onto    : (m,) * d that the result is added to; otherwise to zeros
        returns : (m,) * d
        """
        m, n = matrix.shape
        slabs = _SLABS.get(values.device.type, 1)
        if m > n:  # the first axis where the other ones are short
            values = (matrix @ values.flatten(1)).view(m, *values.shape[1:])
        turned = values.new_zeros(len(values), *[m] * (self._n_dims - 1)) if onto is None else onto

        def turn(some: slice) -> None:
            part = values[some] @ matrix.T
            turned[some] += matrix @ part if self._n_dims == 3 else part

        self._lanes.run([partial(turn, some) for some in share_out(len(values), slabs)])
        return turned if m > n else (matrix @ turned.flatten(1)).view([m] * self._n_dims)

    def _locate(self, coords: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Flat indices of the 4^d nodes around each point, (4,) * d + (n,), and its place within its cell, (d, n)."""
        place = ((coords - low) / self._spacing).clamp_(min=0.0)
        cell = place.floor()
        near = torch.arange(4, device=coords.device)
        corner, offset = torch.zeros_like(cell[0], dtype=torch.int64), near.new_zeros(())
        for axis in range(self._n_dims):
            corner = corner * self._nodes + cell[axis].long()
            offset = offset[..., None] * self._nodes + near
        return offset[..., None] + corner, place - cell


def _spline(fraction: Tensor) -> Tensor:
    """Cubic B-spline at the nodes -1, 0, 1, 2 around a place in [0, 1): (d, n) to (d, 4, n)."""
    f, g = fraction, 1 - fraction
    return torch.stack([g**3, (3 * f - 6) * f**2 + 4, (3 * g - 6) * g**2 + 4, f**3], dim=1) / 6


def _spline_slope(fraction: Tensor) -> Tensor:
    """Derivative of `_spline` by the place: (d, n) to (d, 4, n)."""
    f, g = fraction, 1 - fraction
    return torch.stack([-(g**2), (3 * f - 4) * f, (4 - 3 * g) * g, f**2], dim=1) / 2


def _outer_product(weights: Tensor) -> Tensor:
    """Of the weights along each axis: (d, 4, n) to (4,) * d + (n,)."""
    product = weights[0]
    for along in weights[1:]:
        product = product[..., None, :] * along
    return product


def _interpolate(values: Tensor, weights: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Spline and its gradient in cells.

    values  : (4,) * d + (n,) coefficients
    weights : (d, 4, n) and slopes likewise
    returns : (n,) and (d, n)
    """
    n_dims = len(weights)
    value, gradient = values, [values] * n_dims
    for axis in reversed(range(n_dims)):
        for other in range(axis + 1, n_dims):
            gradient[other] = _contract(gradient[other], weights[axis])
        gradient[axis] = _contract(value, slopes[axis])
        value = _contract(value, weights[axis])
    return value, torch.stack(gradient)


def _contract(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over the second-last axis: (..., 4, n) with (4, n) to (..., n)."""
    total = values[..., 0, :] * weights[0]
    for node in range(1, 4):
        total.addcmul_(values[..., node, :], weights[node])
    return total


def _convolve(charges: Tensor, spectrum: Tensor, lanes: Lanes) -> Tensor:
    """Convolve with a kernel, axis by axis in slabs, so that what is zero or not asked for is left out.

    charges  : (nodes,) * d, taken for zero beyond
    spectrum : (size, ..., size // 2 + 1) of the kernel, size at least the nodes
    returns  : (nodes,) * d
    """
    nodes, size, slabs = len(charges), len(spectrum), _SLABS.get(charges.device.type, 1)
    others = [size] * (charges.ndim - 1)
    axes = tuple(range(1, charges.ndim))
    inner = tuple(slice(0, nodes) for _ in axes)
    half = charges.new_empty(nodes, *spectrum.shape[1:], dtype=torch.complex64)
    field = torch.empty_like(charges)

    def forward(some: slice) -> None:
        half[some] = torch.fft.rfftn(charges[some], others, dim=axes)

    def across(some: slice) -> None:
        columns = torch.fft.fft(half[:, some], size, dim=0).mul_(spectrum[:, some])
        half[:, some] = torch.fft.ifft(columns, dim=0)[:nodes]

    def back(some: slice) -> None:
        field[some] = torch.fft.irfftn(half[some], others, dim=axes)[(slice(None), *inner)]

    for step, count in ((forward, nodes), (across, half.shape[1]), (back, nodes)):
        lanes.run([partial(step, some) for some in share_out(count, slabs)])
    return field


def _coarsening(nodes: int) -> Tensor:
    """Matrix (coarse, nodes) that turns charges on a spline grid into those on one of twice the spacing, exactly.

    Two-scale relation of the cubic B-spline: B(x / 2) = sum_k (1, 4, 6, 4, 1)_k / 8 B(x - k), k = -2 .. 2.
    """
    coarse = (nodes + 1) // 2 + 2
    matrix = torch.zeros(coarse, nodes)
    for shift, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
        rows = torch.arange(coarse)
        columns = 2 * (rows - 1) + shift
        inside = (columns >= 0) & (columns < nodes)
        matrix[rows[inside], columns[inside]] = weight / 8
    return matrix


def _fast_size(least: int) -> int:
    """Smallest even size from here on without prime factors above 5."""
    size = least + least % 2
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2
