"""Segments: a label for every token, by the oracle or by clustering, and scores against masks (stage 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from aligncut_cli.store.kinds.base import IMAGES, PER_BLOCK, Array, Kind, NodeStore, Sizes

if TYPE_CHECKING:
    import numpy as np
    import zarr
    from numpy.typing import NDArray

LABELS = Array(
    "{model}/labels",
    "int16",
    ("layer", "image", "token"),
    {"image": PER_BLOCK},
    about="class or cluster of every token, -1 for the class token",
)
LEVEL_LABELS = Array(
    "{model}/labels_{level}", "int16", LABELS.axes, LABELS.cut, about="coarser clusters", when="several --clusters"
)
LEVEL_GROUPS = Array(
    "levels/group",
    "int16",
    ("graph", "level", "cluster"),
    about="the coarser cluster of each finest one",
    when="--clusters",
)
MEANINGS = {
    "miou": "mean IoU over the classes",
    "threshold": "below which similarity a pixel is background",
    "image_miou": "mean over images of each one's own mIoU",
    "chance": "mIoU of labels drawn at random with their frequencies",
    "shuffled": "mIoU with the masks of other images",
    "bound": "most that whole patches can reach",
}
SCORES = {
    name: Array(f"scores/{name}", "float32", ("model", "layer"), about=about, when="--masks")
    for name, about in MEANINGS.items()
}
IOU = Array("scores/iou", "float32", ("model", "layer", "class"), about="IoU of every class", when="--masks")
EACH_IMAGE = Array(
    "scores/each_image",
    "float32",
    ("model", "layer", "image"),
    about="each image's own mIoU",
    when="--masks, by the oracle",
)
LEVEL_MIOU = Array(
    "scores/miou_{level}", "float32", ("model", "layer"), about="of coarser clusters", when="--masks and --clusters"
)
RUN_SCORES = Array(
    "runs/{score}", "float32", ("run", "model", "layer"), about="each score of every run", when="several EIGS"
)
RUN_IOU = Array("runs/iou", "float32", ("run", "model", "layer", "class"), about="IoU by run", when="several EIGS")
RUN_EACH_IMAGE = Array(
    "runs/each_image", "float32", ("run", "model", "layer", "image"), about="the same by run", when="several EIGS"
)
KIND = Kind(
    "segments",
    (
        LABELS,
        LEVEL_LABELS,
        LEVEL_GROUPS,
        *SCORES.values(),
        IOU,
        LEVEL_MIOU,
        EACH_IMAGE,
        RUN_SCORES,
        RUN_IOU,
        RUN_EACH_IMAGE,
        *IMAGES,
    ),
)

# sums per block of images while the stage runs; kind: an image's own mask, or another's
_BLOCK = {"block": 1}
SUMS = Array("sums/{model}", "float64", ("block", "kind", "layer", "class", "eig"), _BLOCK)
WEIGHTS = Array("weights/{model}", "float64", ("block", "kind", "class"), _BLOCK)
ROUNDING = Array("rounding/{model}", "int64", ("block", "class", "rounded"), _BLOCK)
HISTOGRAM = Array("histogram/{model}", "int64", ("block", "kind", "layer", "class", "best", "reached"), _BLOCK)
IMAGE_MIOU = Array("image_miou/{model}", "float64", ("block", "kind", "layer", "threshold"), _BLOCK)
OWN_MIOU = Array("own_miou/{model}", "float64", ("block", "image", "layer", "threshold"), _BLOCK)
COUNTED = Array("counted/{model}", "int64", ("block", "kind"), _BLOCK)
OVERLAP = Array("overlap/{model}", "int64", ("block", "kind", "layer", "class", "cluster"), _BLOCK)

# the rule that labels by clusters, while the stage runs
_RUN = {"run": 1}
RULE = {
    "weights": Array("rule/weights", "float64", ("run", "graph", "eig", "cluster"), _RUN),
    "offsets": Array("rule/offsets", "float64", ("run", "graph", "cluster"), _RUN),
    "sizes": Array("rule/sizes", "float64", ("run", "graph", "cluster"), _RUN),
    "means": Array("rule/means", "float64", ("run", "graph", "cluster", "eig"), _RUN),
}


def declare_labels(coarser: Iterable[int] = ()) -> list[Array]:
    """Return the arrays of labels that each model has, the finest first, given the numbers of coarser clusters."""
    return [LABELS, *(replace(LEVEL_LABELS, name=LEVEL_LABELS.at("{model}", str(level))) for level in coarser)]


def name_level_score(level: int) -> str:
    """Return what the mIoU of so many coarser clusters is called among the scores."""
    return LEVEL_MIOU.at(str(level)).rpartition("/")[2]


def declare_score(name: str) -> Array:
    """Return the array of a score of the first eigs store: one of MEANINGS, `iou`, `each_image`, or by its level."""
    known = {**SCORES, "iou": IOU, "each_image": EACH_IMAGE}
    return known[name] if name in known else replace(LEVEL_MIOU, name=f"scores/{name}")


def declare_run_score(name: str) -> Array:
    """Return the array of the same score of every eigs store."""
    known = {"iou": RUN_IOU, "each_image": RUN_EACH_IMAGE}
    return known[name] if name in known else replace(RUN_SCORES, name=RUN_SCORES.at(name))


def create_levels(root: zarr.Group, levels: Sequence[int], *, n_graphs: int) -> None:
    """Create `levels/`: which coarser cluster each finest one belongs to, in every graph of the first eigs store."""
    root.create_group("levels", attributes={"clusters": list(levels)})
    LEVEL_GROUPS.create(root, {"graph": n_graphs, "level": len(levels), "cluster": levels[0]})


def create_scores(
    root: zarr.Group, names: Iterable[str], sizes: Sizes, *, runs: Sequence[str], attributes: Mapping[str, Any]
) -> None:
    """Create `scores/` of the first eigs store, and `runs/` where there are several.

    names      : of the scores
    sizes      : model, layer (of the model with most), class and image
    attributes : names of classes and models, to read the axes by
    """
    root.create_group("scores", attributes=dict(attributes))
    several = len(runs) > 1
    if several:
        root.create_group("runs", attributes={**attributes, "runs": list(runs)})
    for name in names:
        declare_score(name).create(root, sizes)
        if several:
            declare_run_score(name).create(root, {**sizes, "run": len(runs)})


class Segments(NodeStore):
    """A finished segments store."""

    NODES = LABELS

    @property
    def scored(self) -> bool:
        """Return whether there were masks to score against."""
        return self.store.has("scores")

    @property
    def several_runs(self) -> bool:
        """Return whether several eigs stores were scored side by side."""
        return self.store.has("runs")

    @property
    def clusters(self) -> list[int]:
        """Return the numbers of clusters, the finest first; none where the oracle segmented."""
        return list(self.store.record["params"]["clusters"])

    @cached_property
    def labels(self) -> dict[str, Array]:
        """Return the arrays of labels that each model has by name (labels, labels_K), the finest first."""
        own = LABELS.at("").strip("/")
        names = [name for name in self.store.names(self.axes.names[0]) if name.startswith(own)]
        levels = sorted((int(name.rpartition("_")[2]) for name in names if name != own), reverse=True)
        return {array.name.rpartition("/")[2]: array for array in declare_labels(levels)}

    @cached_property
    def score_attributes(self) -> dict[str, Any]:
        """Return what the axes of the scores are: names of `classes` and `models`, and of `runs` where several."""
        attributes: dict[str, Any] = self.store.group["runs" if self.several_runs else "scores"].attrs.asdict()
        return attributes

    @property
    def runs(self) -> list[str]:
        """Return the name of each eigs store that was scored; those of one name are repetitions."""
        return list(self.score_attributes["runs"] if self.several_runs else self.store.record["runs"])

    @property
    def score_names(self) -> list[str]:
        """Return the names of all scores."""
        return self.store.names("scores")

    def read_score(self, name: str) -> NDArray[np.floating]:
        """Return a score of every run, (run, model, layer) or (run, model, layer, class)."""
        if self.several_runs:
            return self.store.read(declare_run_score(name).at())
        return self.store.read(declare_score(name).at())[None]
