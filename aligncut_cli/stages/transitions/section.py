"""What the report shows of a transitions store: flows, probabilities, and where figure and ground part."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from aligncut_cli.stages.blocks import Files, PageBlock, Section, table_block
from aligncut_cli.store.read import Store
from aligncut_cli.viz.page import finite


def describe_transitions(store: Store, files: Files) -> list[PageBlock]:
    """Transition probabilities as heat maps and flows: of one pair of slots, and along the layers of models."""
    record = store.record
    groups = [str(name) for name in record.get("masks", store.names("probability"))]
    tests = [list(test.values()) for test in record.get("bifurcations", [])]
    blocks: list[PageBlock] = []
    if store.has("probability"):
        params = record["params"]
        slots = [str(params.get("from_slot") or "from"), str(params.get("to_slot") or "to")]
        arrays = {
            name: np.stack([store.read(f"{name}/{group}") for group in groups])[:, None]
            for name in ("probability", "counts")
        }
        blocks += _steps_blocks(f"{slots[0]} to {slots[1]}", slots, groups, arrays, folded=False)
    for model in (name for name in record.get("models", []) if store.has(f"{name}/probability")):
        layers = store.axes[model].layers
        arrays = {name: store.read(f"{model}/{name}") for name in ("probability", "counts")}
        slots = [f"{model}:{layer}" for layer in layers]
        if store.has(f"{model}/bifurcation"):
            blocks.append(_bifurcation_curve(store, model, [f"{a}→{b}" for a, b in itertools.pairwise(layers)]))
        blocks += _steps_blocks(model, slots, groups, arrays, folded=len(layers) > 2)
    if tests:
        header = ["from", "to", "radius from", "radius to", "bifurcation", "by chance", "p"]
        blocks.append(table_block("How far object and background part", header[: len(tests[0])], tests))
    return blocks


def _bifurcation_curve(store: Store, model: str, steps: list[str]) -> PageBlock:
    series = [
        {"name": title, "style": style, "y": finite(store.read(f"{model}/{name}"))}
        for name, title, style in (("bifurcation", "measured", "line"), ("expected", "by chance", "dashed"))
    ]
    return {
        "kind": "curves",
        "title": "Where figure and ground part",
        "about": "How differently object and background patches of one concept move on to the next layer: 0 if they "
        "go the same ways, 1 if they never meet. The dashed line is what chance alone would give.",
        "xLabel": "step",
        "yLabel": "bifurcation",
        "low": 0,
        "high": 1,
        "panels": [{"title": model, "x": steps, "series": series}],
    }


def _steps_blocks(
    title: str, slots: list[str], groups: list[str], arrays: dict[str, np.ndarray[Any, Any]], *, folded: bool
) -> list[PageBlock]:
    """Make a flow over all steps, and a heat map for each step and kind of patches.

    arrays : probability and counts, (group, step, from, to)
    """
    probability, counts = arrays["probability"], arrays["counts"]
    columns = [{"title": slot, "names": [str(k) for k in range(counts.shape[2])]} for slot in slots]
    flows = [
        {"title": f"{group} patches", "columns": columns, "links": counts[g].astype(int).tolist()}
        for g, group in enumerate(groups)
    ]
    panels = [
        {
            "title": f"{group} patches, {slots[step]} to {slots[step + 1]}",
            "rows": [f"A{k}" for k in range(counts.shape[2])],
            "columns": [f"B{k}" for k in range(counts.shape[3])],
            "values": finite(probability[g, step]),
        }
        for step in range(probability.shape[1])
        for g, group in enumerate(groups)
    ]
    return [
        {
            "kind": "flow",
            "title": f"Flow between concepts, {title}",
            "about": "Each bar is a concept of one layer; a band is as wide as the number of patches that are in both.",
            "panels": flows,
        },
        {
            "kind": "matrix",
            "title": f"Transition probability, {title}",
            "about": "Of the patches in concept A of the earlier layer (row), the share that is in concept B of the "
            "later one (column). Rows need not sum to 1: a patch may land in no concept.",
            "panels": panels,
            "low": 0,
            "high": 1,
            "folded": folded,
        },
    ]


SECTION = Section(
    "transitions",
    "Transitions",
    "Where patches of one concept go in the next layer, objects and background apart.",
    describe_transitions,
    lambda store: store.kind == "transitions",
)
