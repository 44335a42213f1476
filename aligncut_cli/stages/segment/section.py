"""What the report shows of a segments store: mIoU by layer, its table, and IoU by class."""

from __future__ import annotations

from typing import Any

import numpy as np

from aligncut_cli.stages.blocks import Files, PageBlock, Section, table_block
from aligncut_cli.stages.segment.tables import read_scores, tabulate
from aligncut_cli.store.read import Store
from aligncut_cli.viz.page import finite


def describe_segments(store: Store, files: Files) -> list[PageBlock]:
    """mIoU against layer, one panel per model, with what it can be compared to; and the tables."""
    scores = read_scores(store)
    panels = []
    for model, layers in scores.layers.items():
        series: list[dict[str, Any]] = []
        for name in scores.names:
            miou = scores.of(name, model, "miou")
            spread = miou.std(axis=0, ddof=1) if len(miou) > 1 else None
            series.append(
                {
                    "name": name if len(scores.names) > 1 else "mIoU",
                    "style": "line",
                    "y": finite(miou.mean(axis=0)),
                    "spread": None if spread is None else finite(spread),
                }
            )
        first = scores.names[0]
        for key, style in (("bound", "bound"), ("shuffled", "dashed"), ("chance", "dotted")):
            if key in scores.values:
                label = {"bound": "best a grid of patches can do", "shuffled": "masks of other images"}.get(key, key)
                values = finite(scores.of(first, model, key).mean(axis=0))
                series.append({"name": label, "style": style, "y": values})
        panels.append({"title": model, "x": layers, "series": series})
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
            "panels": panels,
        },
        table_block("Scores of every layer", header, rows, open=False),
    ]
    if "iou" in scores.values:
        slots = [(model, layer, at) for model, layers in scores.layers.items() for at, layer in enumerate(layers)]
        first = scores.names[0]
        values = [scores.of(first, model, "iou").mean(axis=0)[at] for model, _, at in slots]
        blocks.append(
            {
                "kind": "matrix",
                "title": "IoU of every class",
                "about": "One row per layer, one column per class; darker is better.",
                "rows": [f"{model}:{layer}" for model, layer, _ in slots],
                "columns": scores.classes,
                "values": finite(np.array(values)),
                "low": 0,
                "high": 1,
            }
        )
    return blocks


SECTION = Section(
    "segments",
    "Segmentation",
    "How well the eigenvectors of each layer separate the objects that people have outlined.",
    describe_segments,
    lambda store: store.kind == "segments" and store.has("scores"),
)
