"""What the report shows of a segments store: mIoU by layer, its table, and IoU by class."""

from __future__ import annotations

from typing import Any

import numpy as np

from aligncut_cli.stages.blocks import Files, PageBlock, Section, table_block
from aligncut_cli.stages.segment.tables import Scores, read_scores, tabulate
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
            "title": f"mIoU at every layer, {len(scores.classes)} classes ({scores.method})",
            "about": "1 is a perfect outline of every class. The grey line is the most that whole patches can reach; "
            "the dashed line is scored with other images' masks, so a curve that stays on it has found nothing.",
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
            curves.append({"name": label, "style": style, "y": values})
    return curves


def _class_matrix(scores: Scores) -> PageBlock:
    """Return IoU of every layer and class of the first run's name."""
    values = [scores.of(scores.names[0], model, "iou").mean(axis=0) for model in scores.layers]
    return {
        "kind": "matrix",
        "title": "IoU of every class",
        "about": "One row per layer, one column per class; darker is better.",
        "rows": [f"{model}:{layer}" for model, layers in scores.layers.items() for layer in layers],
        "columns": scores.classes,
        "values": finite(np.concatenate(values)),
        "low": 0,
        "high": 1,
    }


SECTION = Section(
    "segments",
    "Segmentation",
    "How well the eigenvectors of each layer separate the objects that people have outlined.",
    describe_segments,
    lambda store: store.kind == "segments" and Segments(store).scored,
)
