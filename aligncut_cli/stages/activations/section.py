"""What the report shows of `activations`: object minus background by layer and area."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import Any

from aligncut_cli.maths.activations import ROWS
from aligncut_cli.stages.activations.columns import (
    BACKGROUND,
    DIFFERENCE,
    FOREGROUND,
    LAYER,
    MODEL,
    PLOTS,
    ROI,
    TABLE,
    error_of,
)
from aligncut_cli.stages.blocks import Files, PageBlock, Section, describe_folder, parse_cell
from aligncut_cli.store.read import Store

CAPTIONS = {
    "channels": (
        "Channels that matter for each area",
        "Patches that drive the top channels of each area most, early areas first. The sign says whether more of a "
        "channel raises (+) or lowers (-) the area's mean response; patches are those that raise it.",
    )
}


def describe_activations(store: Store, files: Files) -> list[PageBlock]:
    """Object minus background per slot and ROI as a heat map, both against layer as curves; then what else is there."""
    path = store.path / TABLE
    if not path.exists():
        return describe_folder(store, files, captions=CAPTIONS)
    with path.open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    if not table or not {MODEL, LAYER, ROI, *ROWS} <= set(table[0]):
        return describe_folder(store, files, captions=CAPTIONS)
    models, rois = (list(dict.fromkeys(row[name] for row in table)) for name in (MODEL, ROI))
    found = {(row[MODEL], row[LAYER], row[ROI]): row for row in table}
    slots = list(dict.fromkeys((row[MODEL], row[LAYER]) for row in table))

    def values(name: str, places: Sequence[tuple[str, str, str]]) -> list[float | None]:
        cells = [parse_cell(found[place][name]) if place in found else None for place in places]
        return [float(x) if isinstance(x, int | float) else None for x in cells]

    difference = [values(DIFFERENCE, [(*slot, roi) for roi in rois]) for slot in slots]
    reach = max((abs(x) for row in difference for x in row if x is not None), default=0.0) or 1.0
    blocks: list[PageBlock] = [
        {
            "kind": "matrix",
            "title": "Object minus background",
            "about": "Mean activation (B = V W beta) of an ROI's voxels over object patches minus that over background "
            "patches, by layer.",
            "rows": [f"{model}:{layer}" for model, layer in slots],
            "columns": rois,
            "values": difference,
            "low": -reach,
            "high": reach,
            "digits": 2 if reach >= 1 else 3,
        }
    ]
    for model in models:
        layers = [layer for name, layer in slots if name == model]
        panels: list[dict[str, Any]] = []
        for roi in rois:
            places = [(model, layer, roi) for layer in layers]
            series = [
                {"name": title, "style": "line", "y": values(name, places), "spread": values(error_of(name), places)}
                for name, title in ((FOREGROUND, "object"), (BACKGROUND, "background"))
                if error_of(name) in table[0]
            ]
            panels.append({"title": roi, "x": layers, "series": series})
        known = [x for panel in panels for line in panel["series"] for x in line["y"] if x is not None]
        blocks.append(
            {
                "kind": "curves",
                "title": f"Activation of every area, {model}",
                "about": "Mean over object and over background patches of all photos; the band is the standard error.",
                "xLabel": "layer",
                "yLabel": "activation",
                "low": -_round_up(-min(known, default=0.0)) if min(known, default=0.0) < 0 else 0,
                "high": _round_up(max(map(abs, known), default=1.0)),
                "panels": panels,
                "folded": model != models[0],
            }
        )
    return blocks + describe_folder(store, files, leave_out=[f"{name}.png" for name in PLOTS], captions=CAPTIONS)


def _round_up(value: float) -> float:
    """Return the next number with one digit, so that an axis has round ends."""
    step = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return math.ceil(value / step) * step


SECTION = Section(
    "activations",
    "Activations of brain areas",
    "Object and background patches in the brain's space, layer by layer and ROI by ROI.",
    describe_activations,
    lambda store: store.record.get("stage") == "activations",
)
