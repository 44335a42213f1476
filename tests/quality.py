"""How close carried eigenvectors come to the exact ones."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.maths.affinity import affinity, unit_rows
from aligncut_cli.maths.eigensolve import NormalizedAffinity, solve_normalized_cut


class ExactGraph:
    """The exact solution of a graph small enough to solve, and a judge of others'.

    unit_features : (n, D) unit or zero rows
    memory_limit  : bytes that solving may take
    """

    def __init__(self, unit_features: torch.Tensor, *, n_eig: int, memory_limit: int) -> None:
        self.solution = solve_normalized_cut(
            unit_features, n_eig=n_eig, device="cpu", memory_limit=memory_limit, seed=0
        )
        self._graph = NormalizedAffinity(unit_features, memory_limit, None)

    def judge(self, carried: NDArray[np.floating]) -> dict[str, float]:
        """Judge (n, C) vectors of any scale by their span; both figures are 1 for a perfect result.

        share of the exact trace : what the span captures of the sum of the C largest eigenvalues
        mean squared cosine      : between the two spans
        """
        span, exact = (np.linalg.qr(np.asarray(x, np.float64))[0] for x in (carried, self.solution.eigenvectors))
        columns = torch.from_numpy(span)
        trace = float((columns * self._graph.multiply(columns)).sum())
        overlap = np.linalg.norm(span.T @ exact) ** 2 / span.shape[1]
        return {
            "share of the exact trace": trace / float(self.solution.eigenvalues.sum()),
            "mean squared cosine": float(overlap),
        }


class SampledGraph:
    """A judge for graphs too large to solve: the trace that a span captures, from some rows of S.

    Degrees of the nodes outside of the rows are estimated from the same rows, so compare only what one judge says.

    features : (n, D) rows of all nodes
    n_rows   : rows of S that are computed
    """

    def __init__(self, features: torch.Tensor, *, n_rows: int) -> None:
        self._features = features
        order = torch.randperm(len(features), generator=torch.Generator().manual_seed(7))
        self._rows = order[:n_rows].sort().values
        self._unit = unit_rows(features[self._rows])
        self._share = len(self._rows) / len(features)

    def judge(self, carried: NDArray[np.floating]) -> dict[str, float]:
        """Estimate the trace of Q^T S Q, with Q an orthonormal basis of (n, C) vectors of any scale."""
        span = torch.from_numpy(np.linalg.qr(np.asarray(carried, np.float64))[0])
        image = torch.zeros(len(self._rows), span.shape[1], dtype=torch.float64)
        degrees = torch.zeros(len(self._rows), dtype=torch.float64)
        for block, columns in zip(self._features.split(4096), span.split(4096), strict=True):
            tile = affinity(self._unit, unit_rows(block)).double()
            image += tile @ (columns / (tile.sum(dim=0) / self._share).sqrt()[:, None])
            degrees += tile.sum(dim=1)
        image /= degrees.sqrt()[:, None]
        return {"trace captured (estimate)": float((span[self._rows] * image).sum()) / self._share}
