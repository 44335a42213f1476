"""Which universal channels matter for an ROI (Fig. 2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def choose_channels(readout: NDArray[np.floating], deviation: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Choose the channels whose part of the prediction varies most: mean |beta| times the channel's own deviation.

    A channel adds (pooled channel) x beta to Eq. 2. Scaling a channel of all maps W by s and its beta by 1/s changes
    no prediction; |beta| alone would change with s, this product does not.

    readout   : (universal, voxel) beta of the ROI's voxels
    deviation : (universal,) standard deviation over images of the pooled channel, slots averaged
    count     : channels to choose; all where there are no more
    returns   : (count,) ascending; of channels that matter alike the first
    """
    weight = np.abs(readout).mean(axis=1, dtype=np.float64) * deviation
    return np.sort(np.argsort(-weight, kind="stable")[:count])
