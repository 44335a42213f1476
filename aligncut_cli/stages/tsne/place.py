"""Places any node on a fitted map: where the sampled node stands whose eigenvectors are nearest (K = 1)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.maths.neighbours import build_search, choose_search


class NearestPlaces:
    """A fitted map, ready to be asked where other nodes of the same eigenvectors stand.

    eigvecs   : (m, C) eigenvectors of the fitted nodes
    coords    : (m, d) where t-SNE placed them
    n_queries : about how many nodes will be placed in all, which decides how to search
    seed      : of the search's training, where it has one
    device    : where to search
    """

    def __init__(
        self,
        eigvecs: NDArray[np.float32],
        coords: NDArray[np.float32],
        *,
        n_queries: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._coords, self._device = coords, device
        n_sample, dim = eigvecs.shape
        method = choose_search(
            method="auto", metric="euclidean", n_queries=n_queries, n_sample=n_sample, dim=dim, device=device
        )
        points = torch.from_numpy(eigvecs).to(device)
        self._search = build_search(points, method=method, metric="euclidean", seed=seed, device=device)

    def place(self, eigvecs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return where nodes stand, (..., d), given their eigenvectors (..., C)."""
        queries = torch.from_numpy(eigvecs.reshape(-1, eigvecs.shape[-1])).to(self._device)
        _, nearest = self._search.search(queries, 1)
        places: NDArray[np.float32] = self._coords[nearest[:, 0].cpu().numpy()]
        return places.reshape(*eigvecs.shape[:-1], self._coords.shape[1])
