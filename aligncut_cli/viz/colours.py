"""The AlignedCut colour of a node: its 3-D t-SNE coordinates as red, green and blue, one map for all nodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def colour_range(coords: NDArray[np.float32], *, clip: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coordinates that become 0 and 255 on each axis.

    coords  : (n, d)
    clip    : share of nodes beyond each end, so that a few far nodes do not grey the rest
    returns : two (d,)
    """
    low, high = np.quantile(coords.astype(np.float64), [clip, 1 - clip], axis=0)
    return low, high


def to_rgb(coords: NDArray[np.float32], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return (..., 3) uint8 colours of (..., 3) coordinates; an axis without extent becomes mid-grey."""
    extent = high - low
    scaled = np.where(extent > 0, (coords - low) / np.where(extent > 0, extent, 1), 0.5)
    return np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
