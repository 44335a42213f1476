"""Carry the eigenvectors of the sampled graph to every node (Eq. 4, Nystrom), make them orthonormal, check them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import embedding_bag

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.affinity import affinity as affinity_between
from aligncut_cli.maths.products import inner_products

# An eigenvalue this small is rounding: dividing by it would carry noise, so its eigenvector is carried as zero.
_SMALLEST_EIGENVALUE = 1e-7
_TILE = 2048
# Queries and sampled nodes of one tile of the extension. On the CPU a tile is small enough for the allocator to keep:
# a fresh one of 16 MB costs as much in page faults as its exponentials.
_QUERY_TILE = 4096
_SAMPLE_TILE = {"cpu": 512}
# Ranks that compression tries, as parts of D, and the sampled rows it is judged on.
_RANKS = (1 / 8, 1 / 4, 1 / 3, 1 / 2)
_PROBES = 1024
# Draws of random signs that the noise floor of the residual check is averaged over: it is known to about a sixth.
_SIGN_DRAWS = 8


def propagate_eigenvectors(
    affinity: torch.Tensor, neighbours: torch.Tensor, eigenvectors: torch.Tensor
) -> torch.Tensor:
    """Carry sampled eigenvectors to every node by affinity-weighted average (Eq. 4).

    affinity     : (n, K) affinities of each node to its K nearest sampled nodes, > 0
    neighbours   : (n, K) int64, their indices into the sample
    eigenvectors : (m, C) of the sampled graph
    returns      : (n, C) float32; each row is a convex combination, so a constant stays constant
    """
    weights = affinity.to(torch.float32)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return embedding_bag(neighbours, eigenvectors.to(torch.float32), per_sample_weights=weights, mode="sum")


class NystromExtension:
    """The Nystrom extension of one sampled graph, prepared once and applied to blocks of nodes.

    X~ = D_i^-1/2 A_im D_m^-1/2 X' Lambda^-1, with D_i the sum of node i's affinities to the sampled nodes: the degree
    by which the sampled graph itself is normalized, so the row of a node that is in the sample is its row of X'.

    The cosines can be taken in the leading principal directions of the sample, which costs less where D is large.

    unit_sample  : (m, D) unit or zero rows, on the device to compute on
    eigenvectors : (m, C) X', unit columns
    eigenvalues  : (C,) Lambda
    degrees      : (m,) row sums of the sampled affinity
    tolerance    : largest relative error of any eigenvector, on sampled rows, that compression may cost; 0 for none
    rank         : (attribute) directions kept, D where nothing is compressed
    """

    def __init__(
        self,
        unit_sample: torch.Tensor,
        *,
        eigenvectors: torch.Tensor | NDArray[np.floating],
        eigenvalues: torch.Tensor | NDArray[np.floating],
        degrees: torch.Tensor | NDArray[np.floating],
        tolerance: float = 0.0,
    ) -> None:
        self._sample = unit_sample.to(torch.float32)
        vectors, values, degree = (
            torch.as_tensor(part).to(device=unit_sample.device, dtype=torch.float64)
            for part in (eigenvectors, eigenvalues, degrees)
        )
        m, n_eig = vectors.shape
        if len(unit_sample) != m or len(degree) != m or len(values) != n_eig:
            raise BadInput(
                "the sample, its eigenvectors, eigenvalues and degrees do not belong together",
                why=f"{len(unit_sample)} nodes, eigenvectors of shape {tuple(vectors.shape)}, "
                f"{len(values)} eigenvalues, {len(degree)} degrees",
            )
        inverse = torch.where(values.abs() > _SMALLEST_EIGENVALUE, 1 / values, torch.zeros_like(values))
        # The column of ones sums the affinities, so that the degree comes out of the same product.
        ones = torch.ones(m, 1, dtype=torch.float64, device=unit_sample.device)
        weights = torch.cat([vectors / degree.sqrt()[:, None] * inverse, ones], dim=1)
        # exp(cos - 1) = exp(cos) / e: the constant goes into the weights, so that a tile takes one pass for exp alone.
        self._weights = (weights / math.e).to(torch.float32)
        self._directions: torch.Tensor | None = None
        if tolerance > 0:
            self._compress(tolerance)
        self.rank = self._sample.shape[1]

    def extend(self, unit_queries: torch.Tensor) -> torch.Tensor:
        """Carry the eigenvectors to a block of nodes, tile by tile of the sample, so that memory is n x tile.

        unit_queries : (n, D) unit or zero rows, on the device of the sample
        returns      : (n, C) float32
        """
        total = torch.zeros(len(unit_queries), self._weights.shape[1], device=unit_queries.device)
        width = _SAMPLE_TILE.get(unit_queries.device.type, 16384)
        for low in range(0, len(unit_queries), _QUERY_TILE):
            queries = unit_queries[low : low + _QUERY_TILE]
            if self._directions is not None:
                queries = inner_products(queries, self._directions)
            for left in range(0, len(self._sample), width):
                tile = inner_products(queries, self._sample[left : left + width]).exp_()
                total[low : low + _QUERY_TILE] += inner_products(tile, self._weights[left : left + width].T)
        return total[:, :-1] / total[:, -1:].sqrt()

    def _compress(self, tolerance: float) -> None:
        """Keep the fewest principal directions with which sampled rows keep their values.

        Sampled rows overstate the error: what is cut off has its largest product with itself.
        """
        sample = self._sample
        probes = sample[:: max(1, len(sample) // _PROBES)]
        exact = self.extend(probes)
        # Not centred: what must be kept is inner products.
        moments = sample.T.double() @ sample.double()
        axes = torch.linalg.eigh(moments).eigenvectors.flip(1).to(torch.float32)
        for share in _RANKS:
            self._directions = axes[:, : max(1, int(share * sample.shape[1]))].T.contiguous()
            self._sample = inner_products(sample, self._directions)
            error = (self.extend(probes) - exact).norm(dim=0) / exact.norm(dim=0).clamp(min=1e-30)
            if float(error.max()) <= tolerance:
                return
        self._directions, self._sample = None, sample


def gram(block: torch.Tensor) -> NDArray[np.float64]:
    """Inner products of the columns of a block of rows; the sum over blocks is that of the whole.

    block   : (n, C)
    returns : (C, C) float64
    """
    columns = block.to(torch.float64)
    return (columns.T @ columns).cpu().numpy()


def orthogonalizer(gram_matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find T so that X T has orthonormal columns, from the Gram matrix of X, by Gram-Schmidt.

    Column c of X T is column c of X less what it shares with the columns before it. The leading eigenvectors are the
    most accurate, so each keeps its order, sign and direction, and the later ones lose what has leaked into them; the
    symmetric square root would spread the error over all. A column that depends on those before it becomes zero.

    gram_matrix : (C, C) X^T X
    returns     : (C, C) upper triangular, diagonal >= 0
    """
    scale = np.sqrt(np.clip(np.diag(gram_matrix), 0, None))
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    correlation = gram_matrix * inverse[:, None] * inverse[None, :]
    n = len(scale)
    transform = np.zeros((n, n))
    for column in range(n):
        direction = np.zeros(n)
        direction[column] = 1.0
        for _ in range(2):
            direction -= transform @ (transform.T @ (correlation @ direction))
        square = float(direction @ correlation @ direction)
        # The block is float32: a remainder below its rounding is noise, not a direction.
        if scale[column] > 0 and square > 1e-11:
            transform[:, column] = direction / np.sqrt(square)
    return transform * inverse[:, None]


@dataclass(frozen=True)
class ResidualReport:
    """How well carried eigenvectors solve the full graph's problem on the rows checked.

    residuals      : (C,) ||S x - lambda x|| / (lambda ||x||) over the rows, lambda the eigenvalue of the sampled graph
    noise          : (C,) what of it the few rows make: the root mean square residual of exact eigenvectors over draws
                     of rows; one draw may show twice as much
    eigenvalues    : (C,) Rayleigh quotients of the same rows, an estimate of the full graph's eigenvalues
    n_rows         : rows checked
    """

    residuals: NDArray[np.float64]
    noise: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    n_rows: int


@dataclass
class ResidualSums:
    """What some nodes add to the rows that are checked; sums of parts are added up in an order that is fixed.

    image   : (N, C) sum_j A_ij d_j^-1/2 x_j
    degrees : (N,) sum_j A_ij
    noise   : (N, signs, C) the same sum as the image, each x_j times what one draw of signs makes of e_j
    seen    : nodes
    """

    image: torch.Tensor
    degrees: torch.Tensor
    noise: torch.Tensor
    seen: int

    def merge(self, other: ResidualSums) -> None:
        """Add the sums over other nodes, in place."""
        self.image += other.image
        self.degrees += other.degrees
        self.noise += other.noise
        self.seen += other.seen


class ResidualCheck:
    """Residual of N random rows of the full graph, from one stream over all nodes.

    The rows i checked need (S x)_i = d_i^-1/2 sum_j A_ij d_j^-1/2 x_j over all M nodes j. Their own degrees come out
    exactly; those of the others are estimated from the same rows, d_j ~ M / N sum_i A_ij. Nothing depends on the scale
    of x or on the order of the nodes.

    That estimate makes a residual of its own. With d_j (1 + e_j) for d_j it is -1/2 sum_j S_ij x_j e_j to first order,
    and e_j the mean over the rows k of u_kj = M A_kj / d_j - 1. Its expected square is the mean of
    (sum_j S_ij x_j (1/N) sum_k s_k u_kj)^2 / 4 over random signs s_k (a wild bootstrap: products of different rows
    drop out), times N / (N - 1) for the fitted mean and 1 - N / M for drawing without replacement.

    unit_rows_checked : (N, D) unit or zero rows of the nodes checked, drawn at random from the M
    carried           : (N, C) their rows of the carried eigenvectors
    eigenvalues       : (C,)
    n_nodes           : M
    seed              : of the random signs
    """

    def __init__(
        self,
        unit_rows_checked: torch.Tensor,
        carried: torch.Tensor,
        *,
        eigenvalues: torch.Tensor | NDArray[np.floating],
        n_nodes: int,
        seed: int,
    ) -> None:
        if len(unit_rows_checked) < 1 or len(unit_rows_checked) != len(carried):
            raise BadInput(f"{len(unit_rows_checked)} rows to check with {len(carried)} rows of eigenvectors")
        self._rows = unit_rows_checked.to(torch.float32)
        self._carried = carried.to(torch.float64)
        self._eigenvalues = torch.as_tensor(eigenvalues).to(carried.device, torch.float64)
        self._n_nodes = n_nodes
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(_SIGN_DRAWS, len(carried)))
        self._signs = torch.from_numpy(signs.astype(np.float32)).to(carried.device)

    def no_sums(self) -> ResidualSums:
        """Return the sums over no nodes."""
        sums = torch.zeros_like(self._carried)
        noise = self._carried.new_zeros(len(sums), _SIGN_DRAWS, sums.shape[1])
        return ResidualSums(sums, torch.zeros_like(sums[:, 0]), noise, 0)

    def add(self, sums: ResidualSums, unit_block: torch.Tensor, block: torch.Tensor) -> None:
        """Add a block of nodes to some sums, in place.

        unit_block : (n, D) unit or zero rows
        block      : (n, C) their rows of the carried eigenvectors
        """
        for low in range(0, len(block), _TILE):
            tile = affinity_between(self._rows, unit_block[low : low + _TILE].to(torch.float32))
            mean = tile.mean(dim=0)
            scaled = block[low : low + _TILE].to(torch.float32) / (mean * self._n_nodes).sqrt()[:, None]
            sums.image += (tile @ scaled).double()
            sums.degrees += tile.sum(dim=1).double()
            errors = (tile / mean - 1).T @ self._signs.T / len(self._rows)
            sums.noise += (tile @ (errors[:, :, None] * scaled[:, None]).flatten(1)).double().view_as(sums.noise)
        sums.seen += len(block)

    def result(self, sums: ResidualSums) -> ResidualReport:
        """Return the residuals; refuses sums in which not every node came once."""
        if sums.seen != self._n_nodes:
            raise BadInput(f"{sums.seen:,} of {self._n_nodes:,} nodes were added to the residual check")
        image = sums.image / sums.degrees.sqrt()[:, None]
        x, values = self._carried, self._eigenvalues
        size = x.norm(dim=0)
        residual = (image - x * values).norm(dim=0) / (values.abs() * size)
        rayleigh = (x * image).sum(dim=0) / size**2
        noise = self._noise_size(sums) / (values.abs() * size)
        return ResidualReport(residual.cpu().numpy(), noise.cpu().numpy(), rayleigh.cpu().numpy(), len(x))

    def _noise_size(self, sums: ResidualSums) -> torch.Tensor:
        """Return the root of the expected square (C,) of what the estimated degrees add to S x over the rows."""
        n = len(self._rows)
        square = (sums.noise / sums.degrees.sqrt()[:, None, None]).square().sum(dim=0).mean(dim=0) / 4
        return (square * (1 - n / self._n_nodes) * (n / max(n - 1, 1))).sqrt()
