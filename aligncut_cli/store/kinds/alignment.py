"""Alignments: the maps W of every slot into the universal space (Eq. 1), and the readout of voxels (Eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.store.kinds.base import Array, Kind, Sizes

if TYPE_CHECKING:
    import numpy as np
    import zarr
    from numpy.typing import NDArray

    from aligncut_cli.store.kinds.base import AnyStore
    from aligncut_cli.store.nodes import NodeAxes

EVERY_VOXEL = "all"
VOXELS_PER_BLOCK = 4096

WEIGHT = Array(
    "{model}/weight", "float32", ("layer", "channel", "universal"), {"layer": 1}, about="W of Eq. 1, a map per slot"
)
READOUT = Array("readout/weight", "float32", ("universal", "voxel"), {"voxel": VOXELS_PER_BLOCK}, about="beta of Eq. 2")
BIAS = Array("readout/bias", "float32", ("voxel",), about="eps of Eq. 2")
DEVIATION = Array(
    "readout/deviation",
    "float32",
    ("universal",),
    about="standard deviation over training images of each pooled channel, slots averaged",
)
FIT_WEIGHT = Array(
    "fits/{model}/weight",
    "float32",
    ("fit", "layer", "channel", "universal"),
    {"fit": 1, "layer": 1},
    about="W of every fit",
    when="several fits",
)
FIT_READOUT = Array(
    "fits/readout/weight",
    "float32",
    ("fit", "universal", "voxel"),
    {"fit": 1, "voxel": VOXELS_PER_BLOCK},
    about="beta of every fit",
    when="several fits",
)
FIT_BIAS = Array(
    "fits/readout/bias", "float32", ("fit", "voxel"), {"fit": 1}, about="eps of every fit", when="several fits"
)
ROI = Array("roi/{roi}", "bool", ("voxel",), about="whether a voxel belongs to the region", when="where ROIs are named")
R2 = Array("scores/r2", "float32", ("voxel",), about="variance explained on held-out images")
R = Array("scores/r", "float32", ("voxel",), about="correlation on held-out images")
RIDGE_R2 = Array("scores/ridge_r2", "float32", ("voxel",), about="the same of a ridge on the same features")
RIDGE_R = Array("scores/ridge_r", "float32", ("voxel",), about="the same of a ridge on the same features")
SEED_R2 = Array("scores/seed_r2", "float32", ("seed", "voxel"), {"seed": 1}, about="variance explained by each fit")
SEED_R = Array("scores/seed_r", "float32", ("seed", "voxel"), {"seed": 1}, about="correlation of each fit")
CEILING = Array("scores/ceiling", "float32", ("voxel",), about="explainable share of variance", when="--noise-ceiling")
NULL_R2 = Array("scores/null_r2", "float32", ("voxel",), about="variance explained by the training images' mean")
ROI_R2 = Array(
    "{model}/roi_r2",
    "float32",
    ("layer", "roi", "bound"),
    about="variance explained by a ridge on this slot alone, mean over the region's voxels: value, low, high",
)
ROI_R = Array("{model}/roi_r", "float32", ("layer", "roi", "bound"), about="correlation of the same")
SLOT_SCORES = (ROI_R2, ROI_R)
SHARED = Array(
    "consensus/shared",
    "float32",
    ("universal", "bound"),
    about="of each axis' variance, what the slots have in common on test images: value, low, high",
    when="--target consensus or both",
)
CONSENSUS_R2 = Array(
    "{model}/consensus_r2",
    "float32",
    ("layer", "bound"),
    about="how well the slot predicts the others' consensus on test images: value, low, high",
    when="--target consensus or both",
)
CONSENSUS = (SHARED, CONSENSUS_R2)
SCORES = (R2, R, RIDGE_R2, RIDGE_R, NULL_R2)
SEED_SCORES = (SEED_R2, SEED_R)
FITS = (FIT_WEIGHT, FIT_READOUT, FIT_BIAS)
KIND = Kind(
    "alignment",
    (WEIGHT, READOUT, BIAS, DEVIATION, *FITS, ROI, *SCORES, *SEED_SCORES, *SLOT_SCORES, CEILING, *CONSENSUS),
)

# What a model's group keeps of the features'; it has no node axes.
MODEL_ATTRIBUTES = ("timm", "grid", "class_token", "image_size", "weights", "layers")


def create_alignment(
    root: zarr.Group,
    axes: NodeAxes,
    channels: Mapping[str, int],
    *,
    universal: int,
    voxels: int,
    runs: int,
    fits: int,
    rois: Mapping[str, NDArray[np.bool_]],
    ceiling: NDArray[np.float32] | None,
    consensus: bool,
) -> None:
    """Create the arrays of a store under construction, and write what of it the responses say.

    axes      : of the features
    channels  : of every model's features, D_i
    universal : channels of the universal space, D'
    runs      : seeds and repeated controls that are scored
    fits      : whose maps are kept; more than one where there are folds too
    rois      : name -> (voxels,)
    ceiling   : (voxels,) explainable share of variance, or None
    consensus : whether the slots' consensus is part of it
    """
    sizes = {"universal": universal, "voxel": voxels, "seed": runs, "fit": fits, "bound": 3}
    sizes["roi"] = 1 + sum(bool(mask.any()) for mask in rois.values())
    more = [*SLOT_SCORES, *((FIT_WEIGHT,) if fits > 1 else ()), *((CONSENSUS_R2,) if consensus else ())]
    create_maps(root, axes, channels, more, sizes)
    if consensus:
        SHARED.create(root, sizes)
    for array in (READOUT, BIAS, DEVIATION, *SCORES, *SEED_SCORES, *((FIT_READOUT, FIT_BIAS) if fits > 1 else ())):
        array.create(root, sizes)
    for name, mask in rois.items():
        ROI.put(root, mask, name)
    if ceiling is not None:
        CEILING.put(root, ceiling)


def create_maps(
    root: zarr.Group, axes: NodeAxes, channels: Mapping[str, int], more: Sequence[Array], sizes: Sizes
) -> None:
    """Create the maps of every slot, and further arrays that each model has."""
    for model in axes.models:
        attributes = {key: model.attributes[key] for key in MODEL_ATTRIBUTES if key in model.attributes}
        root.create_group(model.name, attributes=attributes)
        own = {**sizes, "layer": len(model.layers), "channel": channels[model.name]}
        for array in (WEIGHT, *more):
            array.create(root, own, model.name)


class Alignment:
    """A finished alignment store."""

    def __init__(self, store: AnyStore) -> None:
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

    @property
    def has_readout(self) -> bool:
        """Return whether voxels can be predicted; a consensus of the slots alone has no readout."""
        return self.store.has(READOUT.at())

    def require_readout(self, what: str) -> None:
        """Refuse an alignment that no brain took part in, where `what` needs one."""
        if not self.has_readout:
            raise BadInput(
                f"{self.store.path} has no readout, which {what} needs",
                why="It was fitted to the consensus of the slots, not to responses.",
                do="Give an alignment made with: aligncut align F.zarr -o A.zarr --responses DIR",
            )

    @property
    def n_fits(self) -> int:
        """Return how many fits are kept, with other seeds, folds or shuffled pairs; the first is the main one."""
        name = FIT_READOUT.at()
        return int(self.store.array(name).shape[0]) if self.store.has(name) else 1

    def require_fit(self, fit: int) -> None:
        """Refuse a fit that is not there."""
        if not 0 <= fit < self.n_fits:
            raise UsageError(f"{self.store.path} has no fit {fit}", do=f"It has fits 0 to {self.n_fits - 1}.")

    def read_weight(self, model: str, position: int, *, fit: int = 0) -> NDArray[np.float32]:
        """Return W of one slot, (channel, universal); `position` is the layer's index here."""
        self.require_fit(fit)
        if fit:
            return self.store.read(FIT_WEIGHT.at(model), (fit, position))
        return self.store.read(WEIGHT.at(model), (position,))

    def read_readout(self, *, fit: int = 0) -> NDArray[np.float32]:
        """Return beta, (universal, voxel)."""
        self.require_fit(fit)
        return self.store.read(FIT_READOUT.at(), (fit,)) if fit else self.store.read(READOUT.at())

    def read_deviation(self) -> NDArray[np.float32] | None:
        """Return the deviation of each pooled channel, (universal,); None where it was not kept."""
        return self.store.read(DEVIATION.at()) if self.store.has(DEVIATION.at()) else None

    def has_score(self, score: Array) -> bool:
        """Return whether a score is there; older and other fits lack some."""
        return self.store.has(score.at())

    def read_score(self, score: Array) -> NDArray[np.float32]:
        """Return a score of every voxel."""
        return self.store.read(score.at())

    def read_slot_score(self, score: Array, model: str) -> NDArray[np.float32]:
        """Return one of SLOT_SCORES, (layer, roi, 3): value, low, high; the record's `slot_rois` names the regions."""
        return self.store.read(score.at(model))

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
