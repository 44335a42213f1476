"""What the report shows of a transitions store: flows, probabilities, and where figure and ground part."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aligncut_cli.stages.blocks import Files, PageBlock, Section, table_block
from aligncut_cli.stages.transitions.columns import BIFURCATION_KEYS, BIFURCATIONS
from aligncut_cli.store.kinds.transitions import Moves, Transitions
from aligncut_cli.store.read import Store
from aligncut_cli.viz.page import finite


def describe_transitions(store: Store, files: Files) -> list[PageBlock]:
    """Transition probabilities as heat maps and flows: of one pair of slots, and along the layers of models."""
    source = Transitions(store)
    blocks: list[PageBlock] = []
    if source.pair is not None:
        before, after = source.pair
        blocks += _steps_blocks(f"{before} to {after}", source.read_pair(), source)
    for model in source.along:
        tests = source.read_tests(model)
        if tests is not None:
            blocks.append(_bifurcation_curve(model, source.axes[model].layers, tests))
        blocks += _steps_blocks(model, source.read_along(model), source)
    rows = [[test.get(key) for key in BIFURCATION_KEYS] for test in source.bifurcations]
    if rows:
        blocks.append(table_block("How far object and background part", BIFURCATIONS, rows))
    return blocks


def _bifurcation_curve(model: str, layers: Sequence[int], tests: Mapping[str, np.ndarray[Any, Any]]) -> PageBlock:
    series = [
        {"name": title, "style": style, "y": finite(tests[name])}
        for name, title, style in (("bifurcation", "measured", "line"), ("expected", "masks of other images", "dashed"))
    ]
    steps = [f"{a}→{b}" for a, b in itertools.pairwise(layers)]
    return {
        "kind": "curves",
        "title": "Where figure and ground part",
        "about": "How differently object and background patches of one concept move on to the next layer: 0 if they "
        "go the same ways, 1 if they never meet. The dashed line is the same with the masks of other photos.",
        "xLabel": "step",
        "yLabel": "bifurcation",
        "low": 0,
        "high": 1,
        "panels": [{"title": model, "x": steps, "series": series}],
    }


def _steps_blocks(title: str, moves: Moves, source: Transitions) -> list[PageBlock]:
    """Make a flow over all steps, and a heat map for each step and kind of patches; many are folded away."""
    n_from, n_to = moves.counts.shape[2:]
    token_kinds, few = source.token_kinds, moves.members < source.least_tokens
    columns = [{"title": slot, "names": [str(k) for k in range(n_from)]} for slot in moves.slots]
    flows = [
        {"title": f"{kind} patches", "columns": columns, "links": moves.counts[at].astype(int).tolist()}
        for at, kind in enumerate(token_kinds)
    ]
    panels = [
        {
            "title": f"{kind} patches, {before} to {after}",
            "rows": [f"A{k}*" if few[at, step, k] else f"A{k}" for k in range(n_from)],
            "columns": [f"B{k}" for k in range(n_to)],
            "values": finite(moves.probability[at, step]),
        }
        for step, (before, after) in enumerate(moves.steps)
        for at, kind in enumerate(token_kinds)
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
            "later one (column). Rows need not sum to 1: a patch may land in no concept."
            + (f" * rests on fewer than {source.least_tokens} patches." if few.any() else ""),
            "panels": panels,
            "low": 0,
            "high": 1,
            "folded": len(moves.slots) > 2,
        },
    ]


SECTION = Section(
    "transitions",
    "Transitions",
    "Where patches of one concept go in the next layer, objects and background apart.",
    describe_transitions,
    lambda store: store.kind == "transitions",
)
