"""What the report shows of a decoding: how often the right image is found, and what that rests on."""

from __future__ import annotations

from typing import Any

import numpy as np

from aligncut_cli.stages.blocks import Files, PageBlock, Section, table_block
from aligncut_cli.stages.decode.curves import Curves
from aligncut_cli.stages.decode.tables import tabulate
from aligncut_cli.store.kinds.decoding import Decoding
from aligncut_cli.store.read import Store
from aligncut_cli.viz.page import finite


def describe_decoding(store: Store, files: Files) -> list[PageBlock]:
    """Scores of all runs, top-1 against candidates and against neurons, and where neurons look."""
    curves, summary = Curves(Decoding(store)), store.record["summary"]
    tables = [
        table_block(title, header, rows, open=number == 0)
        for number, (title, header, rows) in enumerate(tabulate(summary, ()))
    ]
    return [_bars(summary), *tables, _candidates(curves), *_neurons(curves), *_look(curves)]


def _bars(summary: dict[str, Any]) -> PageBlock:
    runs = summary["runs"]
    chance = summary["chance"]["top1"]
    marks = [
        {"name": "guessing", "sign": "upright", "values": finite([chance for _ in runs])},
    ]
    return {
        "kind": "bars",
        "title": "How often the seen image comes first",
        "about": f"{summary['images']:,} images, each held out once and looked for among {summary['candidates']:,} "
        "that were held out with it. A run called shuffled was fitted anew to images and responses that do not belong "
        "together. The upright line is guessing.",
        "labels": [run["run"] for run in runs],
        "yLabel": "top-1",
        "values": finite([run["top1"][0] for run in runs]),
        "intervals": [finite([run["top1"][end] for run in runs]) for end in (1, 2)],
        "marks": marks,
    }


def _candidates(curves: Curves) -> PageBlock:
    series: list[dict[str, Any]] = [
        {"name": name, "style": "line", "y": finite(values)} for name, values in curves.by_candidates().items()
    ]
    series.append({"name": "guessing", "style": "dashed", "y": finite(curves.chance())})
    return {
        "kind": "curves",
        "title": "Top-1 by the number of candidates",
        "about": "Each number is the mean over all draws of so many candidates from those of a fold.",
        "xLabel": "candidates",
        "yLabel": "top-1",
        "low": 0,
        "high": 1,
        "panels": [{"title": "all images", "x": curves.numbers, "series": series}],
    }


def _neurons(curves: Curves) -> list[PageBlock]:
    sizes, top, random = curves.by_neurons()
    if not sizes:
        return []
    panels = []
    for name, values in top.items():
        middle = {
            "name": "random ones, with the deviation of subsets",
            "style": "line",
            "y": finite(random[name].mean(axis=1)),
            "spread": finite(random[name].std(axis=1)),
        }
        own = {"name": "most responsive neurons", "style": "line", "y": finite(values)}
        panels.append({"title": name, "x": sizes, "series": [own, middle]})
    highest = max(float(np.max([*top[name], *random[name].mean(axis=1)])) for name in top)
    return [
        {
            "kind": "curves",
            "title": "Top-1 by the number of neurons",
            "about": "The neurons that respond most to the training images, against random subsets of the same size.",
            "xLabel": "neurons",
            "yLabel": "top-1",
            "low": 0,
            "high": min(1.0, max(0.1, np.ceil(10 * highest) / 10)),
            "panels": panels,
        }
    ]


def _look(curves: Curves) -> list[PageBlock]:
    blocks: list[PageBlock] = []
    for tower in curves.decoding.towers:
        names, maps = curves.look(tower)
        places = [str(place) for place in range(maps.shape[1])]
        panels = [
            {"title": name, "rows": places, "columns": places, "values": finite(values)}
            for name, values in zip(names, maps, strict=True)
        ]
        blocks.append(
            {
                "kind": "matrix",
                "title": f"Where neurons look, {tower}",
                "about": "Size of each neuron's weights over the image, in 8 x 8 places, of the neurons that add most "
                "to the similarity of the seen image.",
                "panels": panels,
                "low": 0,
                "high": float(maps.max()) or 1.0,
                "folded": True,
            }
        )
    return blocks


SECTION = Section(
    "decoding",
    "Which image was seen",
    "Responses to images that were held out, matched to these images.",
    describe_decoding,
    lambda store: store.kind == "decoding",
)
