"""What the report shows of a segments store: mIoU by layer, its table, and IoU by class."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from aligncut_cli.stages.blocks import Files, PageBlock, Section, table_block
from aligncut_cli.stages.segment.tables import SHARED, Scores, read_scores, tabulate
from aligncut_cli.store.kinds.segments import Segments
from aligncut_cli.store.read import Store
from aligncut_cli.viz.page import finite

COMPARED = {
    "bound": ("bound", "best a grid of patches can do"),
    "shuffled": ("dashed", "masks of other images"),
    "chance": ("dotted", "chance"),
}
"""Style and label of what mIoU is compared to."""


def describe_segments(store: Store, files: Files) -> list[PageBlock]:
    """mIoU against layer, one panel per model, with what it can be compared to; and the tables."""
    scores = read_scores(store)
    header, rows = tabulate(scores)
    blocks: list[PageBlock] = [
        {
            "kind": "curves",
            "title": f"mIoU at every layer, {scores.classes_scored} ({scores.method})",
            "about": " ".join(
                ["1 is a perfect outline of every class.", *map(partial(_say_best, scores), scores.names)]
            ),
            "xLabel": "layer",
            "yLabel": "mIoU",
            "low": 0,
            "high": 1,
            "panels": [
                {"title": model, "x": layers, "series": _list_curves(scores, model)}
                for model, layers in scores.layers.items()
            ],
        },
        table_block("Scores of every layer", header, rows, open=False),
    ]
    if "iou" in scores.values:
        blocks.append(_class_matrix(scores))
    return blocks


def _list_curves(scores: Scores, model: str) -> list[dict[str, Any]]:
    """Return the curves of one model: a line per run's name, and what the first of them is compared to."""
    curves: list[dict[str, Any]] = []
    for name in scores.names:
        miou = scores.of(name, model, "miou")
        spread = miou.std(axis=0, ddof=1) if len(miou) > 1 else None
        curves.append(
            {
                "name": name if len(scores.names) > 1 else "mIoU",
                "style": "line",
                "y": finite(miou.mean(axis=0)),
                "spread": None if spread is None else finite(spread),
            }
        )
    for key, (style, label) in COMPARED.items():
        if key in scores.values:
            values = finite(scores.of(scores.names[0], model, key).mean(axis=0))
            whose = f" ({scores.names[0]})" if len(scores.names) > 1 and key not in SHARED else ""
            curves.append({"name": label + whose, "style": style, "y": values})
    return curves


def _say_best(scores: Scores, name: str) -> str:
    """Say where a run's mIoU is highest, what other images' masks give there, and whether it is a control."""
    means = {model: scores.of(name, model, "miou").mean(axis=0) for model in scores.layers}
    best, model, at = max((float(miou[at]), model, at) for model, miou in means.items() for at in range(len(miou)))
    other = float(scores.of(name, model, "shuffled")[:, at].mean())
    run = f"{name}: highest" if len(scores.names) > 1 else "Highest"
    mark = f" {name} is a control: {', '.join(scores.marks[name])}." if name in scores.marks else ""
    return f"{run} {best:.3f} at {model}:{scores.layers[model][at]}, where other images' masks give {other:.3f}.{mark}"


def _class_matrix(scores: Scores) -> PageBlock:
    """Return IoU of every layer and class of the first run's name."""
    values = [scores.of(scores.names[0], model, "iou").mean(axis=0) for model in scores.layers]
    return {
        "kind": "matrix",
        "title": "IoU of every class",
        "about": "One row per layer, one column per class; empty where a class occurs in no mask and in no segment."
        + (f" Of {scores.names[0]}." if len(scores.names) > 1 else ""),
        "rows": [f"{model}:{layer}" for model, layers in scores.layers.items() for layer in layers],
        "columns": scores.classes,
        "values": finite(np.concatenate(values)),
        "low": 0,
        "high": 1,
    }


SECTION = Section(
    "segments",
    "Segmentation",
    "How well segments made of each layer's eigenvectors agree with the masks.",
    describe_segments,
    lambda store: store.kind == "segments" and Segments(store).scored,
)
