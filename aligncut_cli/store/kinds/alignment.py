"""What an alignment says about voxels: the readout beta and the named ROIs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.store.read import Store

EVERY_VOXEL = "all"


def read_rois(alignment: Store, *, with_all: bool) -> tuple[list[str], NDArray[np.bool_]]:
    """Return the names of the ROIs that have voxels, and (roi, voxel).

    with_all : put an ROI of all voxels first
    """
    n_voxels = int(alignment.array("readout/weight").shape[1])
    names, rows = ([EVERY_VOXEL], [np.ones(n_voxels, np.bool_)]) if with_all else ([], [])
    for name in alignment.names("roi"):
        voxels = alignment.read(f"roi/{name}").astype(np.bool_)
        if voxels.any():
            names.append(name)
            rows.append(voxels)
    return names, np.stack(rows) if rows else np.zeros((0, n_voxels), np.bool_)


def read_readout(alignment: Store) -> NDArray[Any]:
    """Return beta, (universal, voxel)."""
    return alignment.read("readout/weight")
