"""Leading eigenvectors of the normalized affinity of the sampled nodes (Eq. 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.errors import AlignCutError, BadInput, OutOfResources
from aligncut_cli.maths.affinity import affinity, affinity_from_cosine_
from aligncut_cli.maths.products import inner_products

# Up to here LAPACK on the whole float64 matrix is as fast as iterating and needs no thought.
_DENSE_UP_TO = 1500
# Side of a tile of A: in the processor's cache, or large enough that launching kernels does not count.
_TILE = {"cpu": 1024, "cuda": 4096}
# ||S x - lambda x|| that every eigenvector must reach.
RESIDUAL_LIMIT = 1e-5
# What is aimed at with sums in float32, and then with sums in float64, where few nodes make those cheap.
_AIM_FLOAT32, _AIM_FLOAT64 = 1e-7, 1e-9
_SHARP_UP_TO = 10_000
_MOST_PRODUCTS = 200
# Vectors sharpened beyond those asked for, so that the last of these are not mixed with the next.
_SPARE = 4
# Blocks of vectors whose span is searched first, and at most.
_FIRST_LOOK, _BLOCKS_HELD = 6, 8


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
    if m <= max(_DENSE_UP_TO, 2 * block * _BLOCKS_HELD):
        return _solve_dense(unit_features, n_eig)
    features = unit_features.to(device=device, dtype=torch.float32)
    spare = memory_limit - _working_bytes(m, features.shape[1], n_eig, _tile_side(device))
    if spare < 0:
        raise OutOfResources(
            f"the eigenproblem on {m:,} nodes needs {(memory_limit - spare) / 1e9:.1f} GB without storing the graph",
            why=f"{memory_limit / 1e9:.1f} GB are allowed",
            do="sample fewer nodes with --n-sample, or on the CPU allow more with --max-memory",
        )
    graph = NormalizedAffinity(features, spare, progress)
    return _solve_krylov(graph, n_eig, block, seed)


def estimate_solver_memory(n_nodes: int, dim: int, *, n_eig: int, device: torch.device | str) -> SolverMemory:
    """Say how many bytes `solve_normalized_cut` needs on its device, its copy of the features included.

    n_nodes : m
    dim     : D
    n_eig   : C
    device  : where it computes
    """
    if n_nodes <= max(_DENSE_UP_TO, 2 * _block_size(n_eig) * _BLOCKS_HELD):
        dense = 3 * 8 * n_nodes * n_nodes + 8 * n_nodes * dim
        return SolverMemory(half=dense, matrix_free=dense)
    side = _tile_side(device)
    working = _working_bytes(n_nodes, dim, n_eig, side)
    tiles = sum(rows * columns for rows, columns in _tile_shapes(n_nodes, side))
    return SolverMemory(half=working + 4 * tiles, matrix_free=working)


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
    import scipy.linalg  # a sixteenth of all that `eigs` imports, and only small problems need it

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


class NormalizedAffinity:
    """S = D^-1/2 A D^-1/2 as an operator: A in tiles on and above the diagonal, held or computed anew.

    features : (m, D) unit or zero rows, float32, on the device to compute on
    spare    : bytes that the held tiles may take
    progress : called with (tiles passed, tiles expected)
    degrees  : (attribute) (m,) float64, row sums of A
    """

    def __init__(self, features: torch.Tensor, spare: int, progress: Callable[[int, int], None] | None) -> None:
        self.features = features
        self.progress = progress
        self._held: dict[tuple[int, int], torch.Tensor] = {}
        self._spare = spare
        self._passed = 0
        self._side = _tile_side(features.device)
        self.n_tiles = len(_tile_shapes(len(features), self._side))
        self._expected = self.n_tiles * 10
        degrees = torch.zeros(len(features), dtype=torch.float64, device=features.device)
        for rows, columns, tile in self._tiles():
            degrees[rows] += tile.sum(dim=1)
            if rows != columns:
                degrees[columns] += tile.sum(dim=0)
        self.degrees = degrees
        self.root = degrees.sqrt()[:, None]

    @property
    def storage(self) -> str:
        """How the tiles are held, for the record."""
        share = len(self._held) / self.n_tiles
        if share == 1:
            return "upper half, float32 tiles"
        return f"{share:.0%} of the upper half in float32 tiles, the rest matrix-free" if share else "matrix-free"

    def multiply(self, vectors: torch.Tensor, *, exact_sums: bool = False) -> torch.Tensor:
        """Compute S X: (m, k) float64 -> (m, k) float64, summed within tiles in float32 unless `exact_sums`."""
        dtype = torch.float64 if exact_sums else torch.float32
        turned = (vectors / self.root).T.to(dtype).contiguous()
        total = torch.zeros_like(turned, dtype=torch.float64)
        for rows, columns, tile in self._tiles():
            entries = tile.to(dtype)
            # The tile stays as it lies in memory, and the few vectors are turned to fit it.
            total[:, rows] += inner_products(turned[:, columns], entries)
            if rows != columns:
                total[:, columns] += inner_products(turned[:, rows], entries.T)
        return total.T / self.root

    def _tiles(self) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        m = len(self.features)
        for low in range(0, m, self._side):
            rows = slice(low, min(low + self._side, m))
            for left in range(low, m, self._side):
                columns = slice(left, min(left + self._side, m))
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


def _solve_krylov(graph: NormalizedAffinity, n_eig: int, block: int, seed: int) -> EigenSolution:
    """Find the subspace with products summed in float32, then take the rounding of the sums out of it in float64."""
    m = len(graph.features)
    rough, rough_products = _iterate(graph, _start_vectors(graph, block, seed), n_eig, _AIM_FLOAT32, exact_sums=False)
    aim = _AIM_FLOAT64 if m <= _SHARP_UP_TO else _AIM_FLOAT32
    pairs, products = _iterate(graph, rough.vectors[:, : n_eig + _SPARE], n_eig, aim, exact_sums=True)
    products += rough_products
    residual = pairs.residuals[:n_eig].cpu().numpy()
    if not residual.max() <= RESIDUAL_LIMIT:
        raise AlignCutError(
            f"the eigenvectors reached a residual of {residual.max():.1e} after {products} products, "
            f"not {RESIDUAL_LIMIT:.0e}",
            why="many eigenvalues may lie too close together",
            do="sample more nodes with --n-sample, or ask for fewer eigenvectors with --n-eig",
        )
    vectors = fix_signs(pairs.vectors[:, :n_eig].cpu().numpy())
    return EigenSolution(
        pairs.values[:n_eig].cpu().numpy(),
        (vectors / np.linalg.norm(vectors, axis=0)).astype(np.float32),
        graph.degrees.cpu().numpy(),
        residual,
        products,
        graph.storage,
    )


@dataclass(frozen=True)
class _Pairs:
    """Ritz values (k,), Ritz vectors (m, k) and the lengths of their residuals (k,), float64."""

    values: torch.Tensor
    vectors: torch.Tensor
    residuals: torch.Tensor


def _iterate(
    graph: NormalizedAffinity, start: torch.Tensor, n_eig: int, aim: float, *, exact_sums: bool
) -> tuple[_Pairs, int]:
    """Block Krylov with thick restarts; returns the leading pairs, a block of them, and the number of products.

    The basis grows by its own images up to the first look, which costs no more than keeping it orthonormal, and after
    each look by the residuals of the leading Ritz vectors.
    """
    block = start.shape[1]
    growth = basis = _orthonormalize(start, None)
    images = graph.multiply(growth, exact_sums=exact_sums)
    products, best, since_best = 1, float("inf"), 0
    # Vectors that have converged with rounded sums need a product to see it, and few to take the rounding out.
    look_at = 1 if exact_sums else _FIRST_LOOK
    while True:
        if products < look_at:
            growth = _orthonormalize(images[:, -growth.shape[1] :], basis)
            if growth.shape[1] == 0:
                look_at = products
        if products >= look_at:
            values, mix = _ritz(basis, images)
            kept = min(2 * block, basis.shape[1]) if basis.shape[1] + block > _BLOCKS_HELD * block else basis.shape[1]
            basis, images = basis @ mix[:, :kept], images @ mix[:, :kept]
            residuals = images[:, :block] - basis[:, :block] * values[:block]
            pairs = _Pairs(values[:block], basis[:, :block], residuals.norm(dim=0))
            worst = float(pairs.residuals[:n_eig].max())
            # Rounding sets a floor; products that do not halve the residual mean that it is reached.
            since_best = 0 if worst < best / 2 else since_best + 1
            best = min(best, worst)
            if worst <= aim or (worst <= RESIDUAL_LIMIT / 4 and since_best >= 3) or products >= _MOST_PRODUCTS:
                return pairs, products
            growth = _orthonormalize(residuals[:, pairs.residuals > aim / 10], basis)
            if growth.shape[1] == 0:
                return pairs, products
        basis = torch.cat([basis, growth], dim=1)
        images = torch.cat([images, graph.multiply(growth, exact_sums=exact_sums)], dim=1)
        products += 1


def _ritz(basis: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    projected = basis.T @ images
    values, mix = torch.linalg.eigh((projected + projected.T) / 2)
    return values.flip(0), mix.flip(1)


def _start_vectors(graph: NormalizedAffinity, block: int, seed: int) -> torch.Tensor:
    """Take D^1/2 1, the exact leading eigenvector, and random ones."""
    generator = torch.Generator().manual_seed(seed)
    others = torch.randn(len(graph.features), block - 1, generator=generator, dtype=torch.float64)
    return torch.cat([graph.root, others.to(graph.root.device)], dim=1)


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
    return vectors


def _block_size(n_eig: int) -> int:
    return max(32, -(-(n_eig + 8) // 8) * 8)


def _tile_side(device: torch.device | str) -> int:
    return _TILE[torch.device(device).type]


def _tile_shapes(m: int, side: int) -> list[tuple[int, int]]:
    edges = [min(side, m - low) for low in range(0, m, side)]
    return [(rows, columns) for index, rows in enumerate(edges) for columns in edges[index:]]


def _working_bytes(m: int, dim: int, n_eig: int, side: int) -> int:
    block = _block_size(n_eig)
    # The features, the basis and its images with their successors in float64, one tile and its copy.
    return m * dim * 4 + 5 * _BLOCKS_HELD * block * m * 8 + 4 * side * side * 8
