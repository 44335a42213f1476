"""Ridge whose memory does not grow with the images: sums of products over blocks of them, solved once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligncut_cli.maths.ridge import PENALTIES

Floats = NDArray[np.float32]


class SlotSpread:
    """Mean of every feature, and a factor by which each slot gets the same spread; summed over blocks.

    widths : channels of each slot, in the order in which they stand side by side
    """

    def __init__(self, widths: Sequence[int]) -> None:
        self.widths = list(widths)
        self.n = 0
        self._sum, self._square = np.zeros(sum(widths)), np.zeros(sum(widths))

    def add(self, features: Floats) -> None:
        """Add images, (b, D)."""
        self.n += len(features)
        self._sum += features.sum(axis=0, dtype=np.float64)
        self._square += np.square(features, dtype=np.float64).sum(axis=0)

    @property
    def mean(self) -> NDArray[np.float64]:
        """Return (D,)."""
        return self._sum / self.n

    @property
    def factor(self) -> NDArray[np.float64]:
        """Return (D,): 1 / the root mean square distance of a slot from its mean, over the root of the slots' number.

        A slot that does not vary gets 0.
        """
        variance = np.maximum(self._square / self.n - self.mean**2, 0)
        edges = np.cumsum([0, *self.widths])
        spreads = np.array([variance[a:b].sum() for a, b in itertools.pairwise(edges)])
        sizes = np.array([(self._square[a:b] / self.n).sum() for a, b in itertools.pairwise(edges)])
        varies = spreads > 1e-12 * sizes
        slots = np.where(varies, 1 / np.sqrt(np.where(varies, spreads, 1) * len(spreads)), 0.0)
        return np.repeat(slots, self.widths)


class GramSums:
    """Sums over images of features, responses and their products, in float64."""

    def __init__(self, n_features: int, n_neurons: int, device: torch.device) -> None:
        self.n = 0
        self.x, self.y, self.xx, self.xy = (
            torch.zeros(*shape, dtype=torch.float64, device=device)
            for shape in ((n_features,), (n_neurons,), (n_features, n_features), (n_features, n_neurons))
        )

    def add(self, features: Tensor, responses: Tensor) -> None:
        """Add images: (b, D) and (b, neurons), float64."""
        self.n += len(features)
        self.x += features.sum(dim=0)
        self.y += responses.sum(dim=0)
        self.xx.addmm_(features.T, features)
        self.xy.addmm_(features.T, responses)

    def add_sums(self, other: GramSums) -> None:
        """Add the images of other sums."""
        self.n += other.n
        for name in ("x", "y", "xx", "xy"):
            getattr(self, name).add_(getattr(other, name))

    def solve(self) -> StreamedRidge:
        """Take the covariance apart; every penalty then costs a product."""
        mean_x, mean_y = self.x / self.n, self.y / self.n
        covariance = self.xx / self.n - torch.outer(mean_x, mean_x)
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        rotated = vectors.T @ (self.xy / self.n - torch.outer(mean_x, mean_y))
        return StreamedRidge(mean_x, mean_y, values.clamp(min=0), vectors, rotated)


@dataclass(frozen=True)
class StreamedRidge:
    """A ridge of every penalty.

    mean_x       : (D,)
    mean_y       : (neurons,)
    eigenvalues  : (D,) of the features' covariance
    eigenvectors : (D, D)
    rotated      : (D, neurons) covariance of principal components and responses
    """

    mean_x: Tensor
    mean_y: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    rotated: Tensor

    def solve_penalty(self, penalty: float) -> Tensor:
        """Weights (X'X/n + l I)^-1 X'Y/n, (D, neurons); l is the penalty times the largest eigenvalue.

        penalty : infinity gives zeros, that is the mean response
        """
        strength = penalty * float(self.eigenvalues[-1])
        if not 0 < strength < np.inf:
            return torch.zeros_like(self.rotated)
        return self.eigenvectors @ (self.rotated / (self.eigenvalues + strength)[:, None])

    def predict(self, features: Tensor, weights: Tensor) -> Tensor:
        """Predicted responses, (b, neurons), of features (b, D)."""
        return (features - self.mean_x) @ weights + self.mean_y


class PenaltyTrial:
    """Squared errors of every penalty on validation images, summed over blocks."""

    def __init__(self, ridge: StreamedRidge) -> None:
        self.ridge = ridge
        self.weights = [ridge.solve_penalty(penalty) for penalty in PENALTIES]
        self._error = torch.zeros(
            len(PENALTIES), ridge.rotated.shape[1], dtype=torch.float64, device=ridge.mean_x.device
        )

    def add(self, features: Tensor, responses: Tensor) -> None:
        """Add images: (b, D) and (b, neurons)."""
        for total, weights in zip(self._error, self.weights, strict=True):
            total += (self.ridge.predict(features, weights) - responses).square().sum(dim=0)

    def best(self) -> float:
        """Return the penalty with the least error over all neurons, which are z-scored; the strongest of equals."""
        total = self._error.sum(dim=1)
        return PENALTIES[len(PENALTIES) - 1 - int(torch.argmin(total.flip(0)))]
