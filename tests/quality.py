"""How close carried eigenvectors come to the exact ones, on a graph small enough to solve."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.maths.eigensolve import NormalizedAffinity, solve_normalized_cut


class ExactGraph:
    """The exact solution of a graph, and a judge of others'.

    unit_features : (n, D) unit or zero rows
    memory_limit  : bytes that solving may take
    """

    def __init__(self, unit_features: torch.Tensor, *, n_eig: int, memory_limit: int) -> None:
        self.solution = solve_normalized_cut(
            unit_features, n_eig=n_eig, device="cpu", memory_limit=memory_limit, seed=0
        )
        self._graph = NormalizedAffinity(unit_features, memory_limit, None)

    def judge(self, carried: NDArray[np.floating]) -> tuple[float, float]:
        """Return the share of the exact trace that the span of (n, C) vectors of any scale captures, and the mean
        squared cosine between the two spans; both 1 for a perfect result."""
        span, exact = (np.linalg.qr(np.asarray(x, np.float64))[0] for x in (carried, self.solution.eigenvectors))
        columns = torch.from_numpy(span)
        trace = float((columns * self._graph.multiply(columns)).sum())
        overlap = np.linalg.norm(span.T @ exact) ** 2 / span.shape[1]
        return trace / float(self.solution.eigenvalues.sum()), float(overlap)
