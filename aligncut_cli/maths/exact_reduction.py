"""Features in the basis of their own images: as many coordinates as images that are fitted, and the same ridge."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def reduce_features(features: Floats, fitted: NDArray[np.int64], *, device: torch.device) -> Floats:
    """Rotate centred features into the space that the fitted images span.

    A ridge sees the fitted images' features only through their inner products, and its weights lie in their span; so
    coordinates in an orthonormal basis of the span give the same predictions for every penalty.

    features : (images, D), less the mean of the fitted ones; D larger than the number of fitted images
    fitted   : rows
    returns  : (images, r), r at most the number of fitted images
    """
    rows = torch.from_numpy(features).to(device, torch.float64)
    own = rows[torch.from_numpy(fitted).to(device)]
    values, vectors = torch.linalg.eigh(own @ own.T)
    kept = values > 1e-10 * values[-1].clamp(min=1e-300)
    basis = own.T @ (vectors[:, kept] / values[kept].sqrt())
    coordinates: Floats = (rows @ basis).to(torch.float32).cpu().numpy()
    return coordinates
