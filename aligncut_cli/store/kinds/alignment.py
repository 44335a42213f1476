"""Alignments: the maps W of every slot into the universal space (Eq. 1), and the readout of voxels (Eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aligncut_cli.store.kinds.base import Array, Kind

if TYPE_CHECKING:
    import numpy as np
    import zarr
    from numpy.typing import NDArray

    from aligncut_cli.store.nodes import NodeAxes
    from aligncut_cli.store.read import Store

EVERY_VOXEL = "all"
VOXELS_PER_BLOCK = 4096

WEIGHT = Array(
    "{model}/weight", "float32", ("layer", "channel", "universal"), {"layer": 1}, about="W of Eq. 1, a map per slot"
)
READOUT = Array("readout/weight", "float32", ("universal", "voxel"), {"voxel": VOXELS_PER_BLOCK}, about="beta of Eq. 2")
BIAS = Array("readout/bias", "float32", ("voxel",), about="eps of Eq. 2")
ROI = Array("roi/{roi}", "bool", ("voxel",), about="whether a voxel belongs to the region", when="where ROIs are named")
R2 = Array("scores/r2", "float32", ("voxel",), about="variance explained on held-out images")
R = Array("scores/r", "float32", ("voxel",), about="correlation on held-out images")
RIDGE_R2 = Array("scores/ridge_r2", "float32", ("voxel",), about="the same of a ridge on the same features")
RIDGE_R = Array("scores/ridge_r", "float32", ("voxel",), about="the same of a ridge on the same features")
SEED_R2 = Array("scores/seed_r2", "float32", ("seed", "voxel"), {"seed": 1}, about="variance explained by each fit")
SEED_R = Array("scores/seed_r", "float32", ("seed", "voxel"), {"seed": 1}, about="correlation of each fit")
CEILING = Array("scores/ceiling", "float32", ("voxel",), about="explainable share of variance", when="--noise-ceiling")
SCORES = (R2, R, RIDGE_R2, RIDGE_R)
SEED_SCORES = (SEED_R2, SEED_R)
KIND = Kind("alignment", (WEIGHT, READOUT, BIAS, ROI, *SCORES, *SEED_SCORES, CEILING))

# What a model's group keeps of the features'; it has no node axes.
MODEL_ATTRIBUTES = ("timm", "grid", "class_token", "image_size", "weights", "layers")


def create_alignment(
    root: zarr.Group,
    axes: NodeAxes,
    channels: Mapping[str, int],
    *,
    universal: int,
    voxels: int,
    seeds: int,
    rois: Mapping[str, NDArray[np.bool_]],
    ceiling: NDArray[np.float32] | None,
) -> None:
    """Create the arrays of a store under construction, and write what of it the responses say.

    axes      : of the features
    channels  : of every model's features, D_i
    universal : channels of the universal space, D'
    rois      : name -> (voxels,)
    ceiling   : (voxels,) explainable share of variance, or None
    """
    sizes = {"universal": universal, "voxel": voxels, "seed": seeds}
    for model in axes.models:
        attributes = {key: model.attributes[key] for key in MODEL_ATTRIBUTES if key in model.attributes}
        root.create_group(model.name, attributes=attributes)
        WEIGHT.create(root, {**sizes, "layer": len(model.layers), "channel": channels[model.name]}, model.name)
    for array in (READOUT, BIAS, *SCORES, *SEED_SCORES):
        array.create(root, sizes)
    for name, mask in rois.items():
        ROI.put(root, mask, name)
    if ceiling is not None:
        CEILING.put(root, ceiling)


class Alignment:
    """A finished alignment store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def shape(self) -> tuple[int, int]:
        """Return (universal channels, voxels)."""
        universal, voxels = self.store.array(READOUT.at()).shape
        return int(universal), int(voxels)

    def layers(self, model: str) -> list[int]:
        """Return the layers of a model that have maps, in order."""
        return list(self.store.group[model].attrs["layers"])  # type: ignore[arg-type]

    def weight_shape(self, model: str) -> tuple[int, ...]:
        """Return (layers, channels, universal) of a model's maps."""
        return tuple(self.store.array(WEIGHT.at(model)).shape)

    def read_weight(self, model: str, position: int) -> NDArray[np.float32]:
        """Return W of one slot, (channel, universal); `position` is the layer's index here."""
        return self.store.read(WEIGHT.at(model), (position,))

    def read_readout(self) -> NDArray[np.float32]:
        """Return beta, (universal, voxel)."""
        return self.store.read(READOUT.at())

    def has_score(self, score: Array) -> bool:
        """Return whether a score is there; older and other fits lack some."""
        return self.store.has(score.at())

    def read_score(self, score: Array) -> NDArray[np.float32]:
        """Return a score of every voxel."""
        return self.store.read(score.at())

    @property
    def roi_names(self) -> list[str]:
        """Return the names of all regions, sorted."""
        return self.store.names(ROI.at("").rstrip("/"))

    def read_roi(self, name: str) -> NDArray[np.bool_]:
        """Return whether each voxel belongs to a region."""
        import numpy as np

        return self.store.read(ROI.at(name)).astype(np.bool_)

    def read_rois(self) -> dict[str, NDArray[np.bool_]]:
        """Return every region by name, sorted, (voxels,)."""
        return {name: self.read_roi(name) for name in self.roi_names}

    def stack_rois(self, *, with_all: bool) -> tuple[list[str], NDArray[np.bool_]]:
        """Return the names of the regions that have voxels, and (roi, voxel).

        with_all : put a region of all voxels first
        """
        import numpy as np

        n_voxels = self.shape[1]
        names, rows = ([EVERY_VOXEL], [np.ones(n_voxels, np.bool_)]) if with_all else ([], [])
        for name in self.roi_names:
            voxels = self.read_roi(name)
            if voxels.any():
                names.append(name)
                rows.append(voxels)
        return names, np.stack(rows) if rows else np.zeros((0, n_voxels), np.bool_)
