"""Segments: a label for every token, by the oracle or by clustering, and scores against masks (stage 5)."""

from __future__ import annotations

from aligncut_cli.store.kinds.base import IMAGES, PER_BLOCK, Array, Kind, NodeStore

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
LEVEL_MIOU = Array(
    "scores/miou_{level}", "float32", ("model", "layer"), about="of coarser clusters", when="--masks and --clusters"
)
RUN_SCORES = Array(
    "runs/{score}", "float32", ("run", "model", "layer"), about="each score of every run", when="several EIGS"
)
RUN_IOU = Array("runs/iou", "float32", ("run", "model", "layer", "class"), about="IoU by run", when="several EIGS")
KIND = Kind(
    "segments",
    (LABELS, LEVEL_LABELS, LEVEL_GROUPS, *SCORES.values(), IOU, LEVEL_MIOU, RUN_SCORES, RUN_IOU, *IMAGES),
)

# sums per block of images while the stage runs; kind: an image's own mask, or another's
_BLOCK = {"block": 1}
SUMS = Array("sums/{model}", "float64", ("block", "kind", "layer", "class", "eig"), _BLOCK)
WEIGHTS = Array("weights/{model}", "float64", ("block", "kind", "class"), _BLOCK)
ROUNDING = Array("rounding/{model}", "int64", ("block", "class", "rounded"), _BLOCK)
HISTOGRAM = Array("histogram/{model}", "int64", ("block", "kind", "layer", "class", "best", "reached"), _BLOCK)
IMAGE_MIOU = Array("image_miou/{model}", "float64", ("block", "kind", "layer", "threshold"), _BLOCK)
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
    def labels(self) -> list[str]:
        """Return the names of the arrays of labels that each model has, the finest first."""
        first = self.axes.names[0]
        names = [name for name in self.store.names(first) if name.startswith("labels")]
        return sorted(names, key=lambda name: (len(name) > len("labels"), -int(name[7:] or 0)))
