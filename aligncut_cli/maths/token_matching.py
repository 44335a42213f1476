"""Which patches of one grid lie where a patch of another grid does, and with what weight (bilinear)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.grid import Grid


@dataclass(frozen=True)
class GridMatch:
    """For every patch of a reference grid the four patches around its centre.

    index  : (H*W of the reference, 4) int64, patches of the other grid row by row; the class token is not counted
    weight : (H*W of the reference, 4) float32, at least 0, rows sum to 1
    """

    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    @property
    def is_identity(self) -> bool:
        """Return whether every patch has one patch to itself, so that nothing needs to be averaged."""
        sole = self.weight.max(axis=1) == 1
        return bool(sole.all()) and np.array_equal(self.nearest, np.arange(len(self.index)))

    @property
    def nearest(self) -> NDArray[np.int64]:
        """Return (H*W,) the patch with the largest weight."""
        nearest: NDArray[np.int64] = self.index[np.arange(len(self.index)), self.weight.argmax(axis=1)]
        return nearest


def match_grid(grid: Grid, reference: Grid) -> GridMatch:
    """Interpolate between patch centres, constant beyond the outer ones (torch's align_corners=False).

    grid      : (h, w) patches of the model at hand
    reference : (H, W) patches to be matched; both grids cover the whole image
    """
    low_y, high_y, share_y = _match_axis(grid[0], reference[0])
    low_x, high_x, share_x = _match_axis(grid[1], reference[1])
    index = np.stack([y[:, None] * grid[1] + x for y in (low_y, high_y) for x in (low_x, high_x)], axis=-1)
    weight = np.stack([y[:, None] * x for y in (1 - share_y, share_y) for x in (1 - share_x, share_x)], axis=-1)
    return GridMatch(index.reshape(-1, 4), weight.reshape(-1, 4).astype(np.float32))


def _match_axis(n: int, n_reference: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    # In whole numbers up to here, so that equal grids match exactly.
    doubled = (2 * np.arange(n_reference) + 1) * n - n_reference
    position = np.clip(doubled / (2 * n_reference), 0, n - 1)
    low = np.floor(position).astype(np.int64)
    return low, np.minimum(low + 1, n - 1), position - low


def average_matched(rows: NDArray[Any], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average gathered patches.

    rows    : (..., n, 4, D) features of the patches in `GridMatch.index`, any floating type
    weight  : (n, 4)
    returns : (..., n, D) float32
    """
    total = rows[..., 0, :].astype(np.float32) * weight[:, :1]
    for corner in range(1, 4):
        total += rows[..., corner, :] * weight[:, corner : corner + 1]
    return total


def choose_reference_grid(grids: Sequence[Grid]) -> Grid:
    """Return the grid that most slots have, so that fewest are resampled; of equally many the coarsest.

    grids : (H, W) of each slot
    """
    counts = Counter(grids)
    return min(counts, key=lambda grid: (-counts[grid], grid[0] * grid[1], grid))
