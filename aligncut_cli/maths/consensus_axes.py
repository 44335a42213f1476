"""Leading eigenvectors of a weighted sum of the slots' projectors, by block Krylov iteration over the tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligncut_cli.maths.consensus_targets import sum_present_weights
from aligncut_cli.maths.eigensolve import fix_signs
from aligncut_cli.maths.slot_ridge import SlotRidge

# Vectors multiplied at a time. Smaller blocks need fewer columns in all, larger ones read the tokens less often.
_BLOCK = 48
# The basis is shortened when it holds more than this many vectors for each one asked for.
_HELD = 4


class SharedProjector:
    """S = R^-1/2 (sum_i w_i P_i) R^-1/2 as an operator on the sampled tokens, eigenvalues 0 .. 1.

    P_i = X_i (X_i' X_i + m_i l_i I)^-1 X_i' is the ridge's projector on the m_i centred tokens of slot i, zero at
    tokens that it lacks, and R the diagonal matrix of the summed weights of the slots that have a token. G = R^-1/2 X
    of the leading eigenvectors X minimizes sum_i w_i (||K_i (G - X_i W_i)||^2 + m_i l_i ||W_i||^2) with G' R G = I,
    K_i the tokens of slot i: MAXVAR (Kettenring 1971) with a ridge and missing rows.

    slots     : the slots' training tokens
    weights   : (slots,) at least 0
    penalties : (slots,) relative to each slot's largest eigenvalue; infinite takes no part
    n_tokens  : n
    """

    def __init__(
        self,
        slots: Sequence[SlotRidge],
        weights: NDArray[np.float64],
        penalties: NDArray[np.float64],
        n_tokens: int,
    ) -> None:
        self._taking_part = [
            (slot, float(weight), float(penalty))
            for slot, weight, penalty in zip(slots, weights, penalties, strict=True)
            if weight > 0 and penalty < float("inf")
        ]
        self.n_tokens = n_tokens
        self.device = slots[0].reader.device
        self.present = sum_present_weights([slot.rows for slot in slots], weights, n_tokens, device=self.device)
        self._inverse_root = torch.where(self.present > 0, self.present, torch.inf).rsqrt()[:, None]

    def multiply(self, vectors: Tensor) -> Tensor:
        """Compute S X: (n, k) float64 -> (n, k) float64, two products with each slot's tokens in their precision."""
        scaled = vectors * self._inverse_root
        total = torch.zeros_like(scaled)
        for slot, weight, penalty in self._taking_part:
            slot.add_mapped_(total, slot.solve(slot.correlate(scaled), penalty) * weight)
        return total.mul_(self._inverse_root)

    def to_axes(self, vectors: Tensor) -> Tensor:
        """Turn unit eigenvectors of S into axes R^-1/2 X of mean square 1 over tokens, signs fixed by `fix_signs`."""
        axes = vectors * (self._inverse_root * self.present.sum().sqrt())
        return torch.from_numpy(fix_signs(axes.cpu().numpy())).to(self.device)


@dataclass(frozen=True)
class SharedAxes:
    """Leading eigenvectors of the shared projector.

    shared   : (K,) float64 eigenvalues, descending: 1 where every slot has the axis
    axes     : (n, K) float64 G; mean 0 and mean square 1 over tokens, each counted by its slots' weights
    residual : largest ||S x - lambda x|| of an axis
    products : of S with a block of vectors
    """

    shared: Tensor
    axes: Tensor
    residual: float
    products: int


def find_shared_axes(
    projector: SharedProjector,
    *,
    n_axes: int,
    tolerance: float,
    most_products: int,
    seed: int,
    progress: Callable[[], None] | None = None,
) -> SharedAxes:
    """Grow a Krylov space block by block until every axis' residual is within the tolerance.

    Where the basis gets too wide it is shortened to its leading Ritz vectors, which the next block still continues
    (Krylov-Schur; Stewart 2001). Residuals cost no product: they lie in the span of the next block.

    n_axes        : K
    tolerance     : of the residual; an eigenvalue is then right to its square over the distance to its neighbours
    most_products : stop here, if there are n_axes vectors by then; the residual tells how far it came
    seed          : of the start vectors, which depend on n and K only
    progress      : called after each product
    """
    n = projector.n_tokens
    generator = torch.Generator().manual_seed(seed)
    growth = torch.randn(n, min(_BLOCK, n_axes + 8), generator=generator, dtype=torch.float64).to(projector.device)
    growth = _orthonormalize(growth, growth[:, :0])
    basis, projected = growth[:, :0], growth.new_zeros(0, 0)
    products = 0
    while True:
        image = projector.multiply(growth)
        products += 1
        if progress is not None:
            progress()
        old, new = basis.shape[1], growth.shape[1]
        basis = torch.cat([basis, growth], dim=1)
        coupling = basis.T @ image
        projected = torch.nn.functional.pad(projected, (0, new, 0, new))
        projected[:, old:], projected[old:, :] = coupling, coupling.T
        rest = image - basis @ coupling
        following = _orthonormalize(rest, basis)
        values, mix = torch.linalg.eigh(projected)
        values, mix = values.flip(0), mix.flip(1)
        residuals = ((following.T @ rest) @ mix[old:]).norm(dim=0)
        # A space that S does not leave holds all that there is to find from this start.
        closed = following.shape[1] == 0
        enough = products >= most_products or float(residuals[:n_axes].max()) <= tolerance
        if closed or (enough and basis.shape[1] >= n_axes):
            break
        if basis.shape[1] + following.shape[1] > _HELD * n_axes:
            kept = min(basis.shape[1], _HELD * n_axes // 2 + new)
            basis, projected = basis @ mix[:, :kept], torch.diag(values[:kept])
        growth = following
    found = min(n_axes, basis.shape[1])
    axes = projector.to_axes(basis @ mix[:, :found])
    return SharedAxes(values[:found].clamp(0, 1), axes, float(residuals[:found].max()), products)


def estimate_search_memory(n_tokens: int, *, n_axes: int) -> int:
    """Say how many bytes `find_shared_axes` needs beside the slots."""
    # The basis, that which it is lengthened or shortened to, what the allocator keeps, and the blocks in hand.
    return 8 * n_tokens * (3 * (_HELD * n_axes + _BLOCK) + 8 * _BLOCK)


def _orthonormalize(vectors: Tensor, against: Tensor) -> Tensor:
    """Orthonormal basis of the part of the columns that is outside of `against`; dependent columns are dropped."""
    for _ in range(2):
        norms = vectors.norm(dim=0)
        vectors = vectors[:, norms > 0] / norms[norms > 0]
        vectors = vectors - against @ (against.T @ vectors)
        gram = vectors.T @ vectors
        values, mix = torch.linalg.eigh((gram + gram.T) / 2)
        good = values > 1e-13 * max(vectors.shape[1], 1)
        vectors = (vectors @ mix[:, good].flip(1)) / values[good].flip(0).sqrt()
    return vectors
