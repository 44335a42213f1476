"""Ridge from one slot's tokens to any target: the covariance is taken apart once, a target costs two products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aligncut_cli.maths.products import inner_products, linear
from aligncut_cli.maths.sampled_tokens import SlotRows
from aligncut_cli.maths.token_moments import TokenMoments

Places = slice | Tensor


@dataclass(frozen=True)
class RowReader:
    """How rows are read: so many at a time, to a device."""

    device: torch.device
    rows_per_block: int

    def dtype(self, rows: SlotRows) -> torch.dtype:
        """Precision of the products: float32, or float64 for rows that are stored so."""
        return torch.float64 if rows.values.dtype == np.float64 else torch.float32

    def read(self, rows: SlotRows, part: slice, mean: Tensor | None = None) -> Tensor:
        """Return some rows, less `mean` (D,) where one is given: (b, D)."""
        stored = torch.from_numpy(np.ascontiguousarray(rows.read(part))).to(self.device)
        block = stored.to(self.dtype(rows), copy=True)
        return block if mean is None else block.sub_(mean.to(block))

    def blocks(self, rows: SlotRows, mean: Tensor | None = None) -> Iterator[tuple[Places, Tensor]]:
        """Yield where rows stand in the sample, and the rows, (b, D), less `mean` (D,) where one is given."""
        for start in range(0, len(rows), self.rows_per_block):
            part = slice(start, min(start + self.rows_per_block, len(rows)))
            places = part if rows.places is None else torch.from_numpy(rows.places[part]).to(self.device)
            yield places, self.read(rows, part, mean)


@dataclass(frozen=True)
class SlotRidge:
    """A slot's training tokens and the eigenvectors of their covariance.

    rows         : of the training tokens
    mean         : (D,) float64
    eigenvalues  : (D,) float64, of the covariance, ascending
    eigenvectors : (D, D) float64
    reader       : how the rows are read
    """

    rows: SlotRows
    mean: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    reader: RowReader

    @classmethod
    def of(cls, rows: SlotRows, reader: RowReader) -> SlotRidge:
        """Measure mean and covariance, and take the covariance apart."""
        moments = TokenMoments(rows.width, device=reader.device)
        for _, block in reader.blocks(rows):
            moments.add(block)
        values, vectors = torch.linalg.eigh(moments.covariance)
        return cls(rows, moments.mean, values.clamp(min=0), vectors, reader)

    @property
    def covariance(self) -> Tensor:
        """Return (D, D) float64."""
        return (self.eigenvectors * self.eigenvalues) @ self.eigenvectors.T

    def shrink(self, penalty: float) -> Tensor:
        """1 / (m (eigenvalue + penalty * largest eigenvalue)); zeros if the penalty is infinite; (D,).

        penalty : relative to the largest eigenvalue
        """
        strength = penalty * float(self.eigenvalues[-1])
        if not 0 < strength < np.inf:
            return torch.zeros_like(self.eigenvalues)
        return 1 / (len(self.rows) * (self.eigenvalues + strength))

    def correlate(self, targets: Tensor) -> Tensor:
        """Products of the centred tokens' principal components with targets: V' X' Y.

        targets : (n, k) of all sampled tokens; rows that the slot has not are not looked at
        returns : (D, k) float64
        """
        total = self.eigenvalues.new_zeros(targets.shape[1], len(self.eigenvalues))
        for places, block in self.reader.blocks(self.rows, self.mean):
            # The block stays as it lies in memory, and the few targets are turned to fit it.
            total += inner_products(targets[places].to(block.dtype).T, block.T)
        return self.eigenvectors.T @ total.T

    def solve(self, correlated: Tensor, penalty: float) -> Tensor:
        """The ridge's map for centred tokens, (X'X + m l I)^-1 X'Y, from `correlate`; (D, k) float64."""
        return self.eigenvectors @ (self.shrink(penalty)[:, None] * correlated)

    def add_mapped_(self, total: Tensor, weight: Tensor) -> None:
        """Add (X - mean) W to the rows of `total` that the slot has, in place.

        total  : (n, k) float64
        weight : (D, k)
        """
        for places, mapped in map_rows(self.rows, weight, self.mean, self.reader):
            total[places] += mapped


def map_rows(rows: SlotRows, weight: Tensor, mean: Tensor, reader: RowReader) -> Iterator[tuple[Places, Tensor]]:
    """Yield where rows stand in the sample, and (X - mean) W of them, (b, k), block by block.

    weight : (D, k)
    mean   : (D,)
    """
    turned = weight.T.to(reader.device)
    for places, block in reader.blocks(rows, mean):
        yield places, linear(block, turned.to(block.dtype).contiguous(), None)
