"""Leading eigenvectors of the normalized affinity of the sampled nodes (Eq. 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from aligncut_cli.errors import AlignCutError, BadInput, OutOfResources
from aligncut_cli.maths.affinity import affinity, affinity_from_cosine_

# Up to here LAPACK on the whole float64 matrix is as fast as iterating and needs no thought.
_DENSE_UP_TO = 1500
# Up to here float64 costs seconds at most; beyond, float32 entries halve time and memory, and products sum in blocks.
_FLOAT64_UP_TO = 10_000
_TILE = 2048
# ||S x - lambda x|| that every eigenvector must reach, and what is aimed at where rounding allows.
RESIDUAL_LIMIT = 1e-5
_AIM = {torch.float64: 1e-10, torch.float32: 2e-7}
_MOST_PRODUCTS = 200
_BLOCKS_HELD = 6
_WARM_START_FROM = 6000
_WARM_START_NODES = 1024


@dataclass(frozen=True)
class EigenSolution:
    """The C largest eigenpairs of S = D^-1/2 A D^-1/2 on m nodes.

    eigenvalues  : (C,) float64, descending
    eigenvectors : (m, C) float32, unit columns, signs fixed by `fix_signs`
    degrees      : (m,) float64, row sums of A
    residuals    : (C,) float64, ||S x - lambda x||, summed in float64
    iterations   : products of S with a block of vectors; 0 for the dense solver
    storage      : how S was held, for the record
    """

    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float32]
    degrees: NDArray[np.float64]
    residuals: NDArray[np.float64]
    iterations: int
    storage: str


@dataclass(frozen=True)
class SolverMemory:
    """Bytes the solver needs beside the features it is given.

    half        : with the upper half of A held
    matrix_free : with A computed anew in each product
    """

    half: int
    matrix_free: int


def solve_normalized_cut(
    unit_features: torch.Tensor,
    *,
    n_eig: int,
    device: torch.device | str,
    memory_limit: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> EigenSolution:
    """Solve D^-1/2 A D^-1/2 X = X Lambda for the C largest eigenvalues, A = exp(cos - 1) (Eq. 3).

    Few nodes: LAPACK in float64. More: a block Krylov method with thick restarts that keeps the upper half of A in
    tiles as far as `memory_limit` goes and computes the other tiles anew in each product.

    unit_features : (m, D) unit or zero rows, m >= C
    n_eig         : C
    device        : where the products are computed
    memory_limit  : bytes this call may use on the device, features included
    seed          : of the start vectors; the same seed gives the same bytes on the same machine
    progress      : called with (tiles passed, tiles expected), the second growing where more products are needed
    """
    m = unit_features.shape[0]
    if n_eig < 1:
        raise BadInput(f"{n_eig} eigenvectors asked for", do="ask for at least 1")
    if m < n_eig:
        raise BadInput(
            f"{n_eig} eigenvectors asked for from {m} nodes",
            why="a graph has no more eigenvectors than nodes",
            do=f"give more images or sample more nodes, or ask for at most --n-eig {m}",
        )
    block = _block_size(n_eig)
    if m <= max(_DENSE_UP_TO, 3 * block * _BLOCKS_HELD):
        return _solve_dense(unit_features, n_eig)
    dtype = torch.float64 if m <= _FLOAT64_UP_TO else torch.float32
    features = unit_features.to(device=device, dtype=dtype)
    spare = memory_limit - _working_bytes(m, features.shape[1], n_eig, dtype)
    if spare < 0:
        raise OutOfResources(
            f"the eigenproblem on {m:,} nodes needs {(memory_limit - spare) / 1e9:.1f} GB without storing the graph",
            why=f"{memory_limit / 1e9:.1f} GB are allowed",
            do="sample fewer nodes with --n-sample, or allow more with --max-memory",
        )
    graph = _HalfGraph(features, spare, progress)
    return _solve_krylov(graph, n_eig, block, seed)


def estimate_solver_memory(n_nodes: int, dim: int, *, n_eig: int) -> SolverMemory:
    """Say how many bytes `solve_normalized_cut` needs on its device, its copy of the features included.

    n_nodes : m
    dim     : D
    n_eig   : C
    """
    if n_nodes <= max(_DENSE_UP_TO, 3 * _block_size(n_eig) * _BLOCKS_HELD):
        dense = 3 * 8 * n_nodes * n_nodes + 8 * n_nodes * dim
        return SolverMemory(half=dense, matrix_free=dense)
    dtype = torch.float64 if n_nodes <= _FLOAT64_UP_TO else torch.float32
    working = _working_bytes(n_nodes, dim, n_eig, dtype)
    tiles = sum(rows * columns for rows, columns in _tile_shapes(n_nodes))
    return SolverMemory(half=working + tiles * dtype.itemsize, matrix_free=working)


def fix_signs(eigenvectors: NDArray[np.floating]) -> NDArray[np.float64]:
    """Choose the sign of each eigenvector so that reruns compare equal.

    The sum of cubes becomes positive: it does not depend on the order of the nodes and does not hang on one entry.
    Where it is nearly zero, the first of the largest entries becomes positive.

    eigenvectors : (m, C)
    returns      : (m, C) float64
    """
    columns = np.asarray(eigenvectors, dtype=np.float64)
    sizes = np.abs(columns)
    largest = sizes.max(axis=0)
    cubes = (columns / np.where(largest > 0, largest, 1.0)) ** 3
    skew, scale = cubes.sum(axis=0), np.abs(cubes).sum(axis=0)
    first = (sizes >= largest * (1 - 1e-4)).argmax(axis=0)
    by_entry = columns[first, np.arange(columns.shape[1])]
    return columns * np.where(np.where(np.abs(skew) > 1e-3 * scale, skew, by_entry) < 0, -1.0, 1.0)


def _solve_dense(unit_features: torch.Tensor, n_eig: int) -> EigenSolution:
    features = unit_features.detach().to("cpu", torch.float64)
    m = len(features)
    graph = affinity_from_cosine_(features @ features.T).numpy()
    degrees = graph.sum(axis=1)
    root = np.sqrt(degrees)
    graph /= root[:, None]
    graph /= root[None, :]
    values, vectors = scipy.linalg.eigh((graph + graph.T) / 2, subset_by_index=[m - n_eig, m - 1])
    values, vectors = values[::-1], fix_signs(vectors[:, ::-1])
    vectors /= np.linalg.norm(vectors, axis=0)
    residuals = np.linalg.norm(graph @ vectors - vectors * values, axis=0)
    return EigenSolution(values.copy(), vectors.astype(np.float32), degrees, residuals, 0, "dense float64, LAPACK")


class _HalfGraph:
    """S as an operator: the tiles of A on and above the diagonal, held or computed anew; D^-1/2 acts on the vectors."""

    def __init__(self, features: torch.Tensor, spare: int, progress: Callable[[int, int], None] | None) -> None:
        self.features = features
        self.progress = progress
        self._held: dict[tuple[int, int], torch.Tensor] = {}
        self._spare = spare
        self._passed = 0
        self.n_tiles = len(_tile_shapes(len(features)))
        self._expected = self.n_tiles * 10
        degrees = torch.zeros(len(features), dtype=torch.float64, device=features.device)
        for rows, columns, tile in self._tiles():
            degrees[rows] += tile.sum(dim=1).double()
            if rows != columns:
                degrees[columns] += tile.sum(dim=0).double()
        self.degrees = degrees
        self.root = degrees.sqrt()[:, None]

    @property
    def storage(self) -> str:
        kind = str(self.features.dtype).removeprefix("torch.")
        share = len(self._held) / self.n_tiles
        if share == 1:
            return f"upper half, {kind} tiles"
        return (
            f"{share:.0%} of the upper half in {kind} tiles, the rest matrix-free" if share else f"matrix-free, {kind}"
        )

    def multiply(self, vectors: torch.Tensor, *, exact_sums: bool = False) -> torch.Tensor:
        """Compute S X: (m, k) float64 -> (m, k) float64, summed in the dtype of the tiles unless `exact_sums`."""
        dtype = torch.float64 if exact_sums else self.features.dtype
        scaled = (vectors / self.root).to(dtype)
        turned = scaled.T.contiguous()
        total = torch.zeros_like(vectors)
        for rows, columns, tile in self._tiles():
            entries = tile.to(dtype)
            total[rows] += entries @ scaled[columns]
            if rows != columns:
                # The tile stays as it lies in memory; transposing the vectors instead is a third faster.
                total[columns] += (turned[:, rows] @ entries).T
        return total / self.root

    def _tiles(self) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        m = len(self.features)
        for low in range(0, m, _TILE):
            rows = slice(low, min(low + _TILE, m))
            for left in range(low, m, _TILE):
                columns = slice(left, min(left + _TILE, m))
                tile = self._held.get((low, left))
                if tile is None:
                    tile = affinity(self.features[rows], self.features[columns])
                    size = tile.numel() * tile.element_size()
                    if size <= self._spare:
                        self._held[low, left] = tile
                        self._spare -= size
                yield rows, columns, tile
                self._passed += 1
            if self.progress is not None:
                self._expected = max(self._expected, self._passed + self.n_tiles)
                self.progress(self._passed, self._expected)


def _solve_krylov(graph: _HalfGraph, n_eig: int, block: int, seed: int) -> EigenSolution:
    """Block Krylov with thick restarts: the basis grows by the residuals of the leading Ritz vectors, in float64."""
    basis = _orthonormalize(_start_vectors(graph, block, seed), None)
    images = graph.multiply(basis)
    products, aim = 1, _AIM[graph.features.dtype]
    best, since_best = float("inf"), 0
    while True:
        values, mix = _ritz(basis, images)
        kept = min(2 * block, basis.shape[1]) if basis.shape[1] + block > _BLOCKS_HELD * block else basis.shape[1]
        ritz, ritz_images = basis @ mix[:, :kept], images @ mix[:, :kept]
        residuals = ritz_images[:, :block] - ritz[:, :block] * values[:block]
        sizes = residuals.norm(dim=0)
        worst = float(sizes[:n_eig].max())
        # Rounding sets a floor; a few products without halving the residual mean that it is reached.
        since_best = 0 if worst < best / 2 else since_best + 1
        best = min(best, worst)
        if worst <= aim or (worst <= RESIDUAL_LIMIT / 4 and since_best >= 4) or products >= _MOST_PRODUCTS:
            break
        growth = _orthonormalize(residuals[:, sizes > aim / 10], ritz)
        if growth.shape[1] == 0:
            break
        basis = torch.cat([ritz, growth], dim=1)
        images = torch.cat([ritz_images, graph.multiply(growth)], dim=1)
        products += 1

    # One product summed in float64 takes the rounding of the sums out of the values and of the residuals reported.
    vectors = _orthonormalize(ritz[:, :n_eig], None)
    images = graph.multiply(vectors, exact_sums=True)
    values, mix = _ritz(vectors, images)
    vectors, images = vectors @ mix, images @ mix
    residual = (images - vectors * values).norm(dim=0).cpu().numpy()
    if not residual.max() <= RESIDUAL_LIMIT:
        raise AlignCutError(
            f"the eigenvectors reached a residual of {residual.max():.1e} after {products} products, "
            f"not {RESIDUAL_LIMIT:.0e}",
            why="many eigenvalues may lie too close together",
            do="sample more nodes with --n-sample, or ask for fewer eigenvectors with --n-eig",
        )
    return EigenSolution(
        values.cpu().numpy(),
        fix_signs(vectors.cpu().numpy()).astype(np.float32),
        graph.degrees.cpu().numpy(),
        residual,
        products + 1,
        graph.storage,
    )


def _ritz(basis: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    projected = basis.T @ images
    values, mix = torch.linalg.eigh((projected + projected.T) / 2)
    return values.flip(0), mix.flip(1)


def _start_vectors(graph: _HalfGraph, block: int, seed: int) -> torch.Tensor:
    """Take D^1/2 1, the exact leading eigenvector, and random ones or, for many nodes, those of a small sample."""
    m, device = len(graph.features), graph.features.device
    generator = torch.Generator().manual_seed(seed)
    if m < _WARM_START_FROM:
        others = torch.randn(m, block - 1, generator=generator, dtype=torch.float64).to(device)
        return torch.cat([graph.root, others], dim=1)
    chosen = torch.randperm(m, generator=generator)[: max(_WARM_START_NODES, 2 * block)].sort().values.to(device)
    small = _solve_dense(graph.features[chosen], block)
    weights = torch.from_numpy(small.eigenvectors / np.sqrt(small.degrees)[:, None]).to(graph.features)
    parts = [
        affinity(graph.features[low : low + _TILE], graph.features[chosen]) @ weights for low in range(0, m, _TILE)
    ]
    extended = torch.cat(parts).double() / graph.root
    # A little of everything, so that nothing is missed by the sample's being blind to it.
    extended /= extended.norm(dim=0)
    noise = torch.randn(m, block, generator=generator, dtype=torch.float64).to(device)
    extended += 1e-3 / m**0.5 * noise
    extended[:, 0] = graph.root[:, 0]
    return extended


def _orthonormalize(vectors: torch.Tensor, against: torch.Tensor | None) -> torch.Tensor:
    """Orthonormal basis of the part of the columns that is outside of `against`; dependent columns are dropped."""
    for _ in range(2):
        norms = vectors.norm(dim=0)
        vectors = vectors[:, norms > 0] / norms[norms > 0]
        if against is not None:
            vectors = vectors - against @ (against.T @ vectors)
        gram = vectors.T @ vectors
        values, mix = torch.linalg.eigh((gram + gram.T) / 2)
        good = values > 1e-13 * max(vectors.shape[1], 1)
        vectors = (vectors @ mix[:, good].flip(1)) / values[good].flip(0).sqrt()
    if against is not None:
        vectors = vectors - against @ (against.T @ vectors)
    orthonormal: torch.Tensor = torch.linalg.qr(vectors).Q
    return orthonormal


def _block_size(n_eig: int) -> int:
    return max(32, -(-(n_eig + 8) // 8) * 8)


def _tile_shapes(m: int) -> list[tuple[int, int]]:
    edges = [min(_TILE, m - low) for low in range(0, m, _TILE)]
    return [(rows, columns) for index, rows in enumerate(edges) for columns in edges[index:]]


def _working_bytes(m: int, dim: int, n_eig: int, dtype: torch.dtype) -> int:
    block = _block_size(n_eig)
    # The features, the basis and its images with their successors in float64, one tile and its copy.
    return m * dim * dtype.itemsize + 4 * _BLOCKS_HELD * block * m * 8 + 4 * _TILE * _TILE * 8
