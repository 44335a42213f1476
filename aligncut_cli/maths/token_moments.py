"""Mean and covariance of a slot's tokens, summed over a stream of blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from aligncut_cli.maths.products import inner_products


class TokenMoments:
    """Mean and covariance of all rows added: products in the rows' precision, sums between blocks in float64.

    Each block is centred on its own mean (Chan, Golub and LeVeque 1983), so a mean far from zero costs no digits.

    width  : D
    device : where rows are added and sums are kept
    """

    def __init__(self, width: int, *, device: torch.device) -> None:
        self.count = 0
        self._mean = torch.zeros(width, dtype=torch.float64, device=device)
        self._scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        """Add a block of rows.

        rows : (n, D) float32 or float64, on the device
        """
        if len(rows) == 0:
            return
        mean = rows.mean(dim=0, dtype=torch.float64)
        centred = rows - mean.to(rows.dtype)
        # What rounding of the mean has left in the rows.
        left = centred.mean(dim=0, dtype=torch.float64)
        scatter = inner_products(centred.T, centred.T).double() - len(rows) * torch.outer(left, left)
        total = self.count + len(rows)
        step = mean - self._mean
        self._scatter += scatter + torch.outer(step, step) * (self.count * len(rows) / total)
        self._mean += step * (len(rows) / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """Return (D,) float64; zeros where nothing was added."""
        return self._mean.clone()

    @property
    def covariance(self) -> Tensor:
        """Return (D, D) float64, symmetric, about the mean and divided by the count; zeros where nothing was added."""
        return (self._scatter + self._scatter.T) / (2 * max(self.count, 1))
