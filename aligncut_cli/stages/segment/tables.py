"""Reads the scores of a segments store back, as rows for tables, CSV and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.controls import title_with_controls
from aligncut_cli.store.read import Store

Floats = NDArray[np.float64]
SHOWN = {
    "miou": "mIoU",
    "threshold": "threshold",
    "image_miou": "per image",
    "chance": "chance",
    "shuffled": "other masks",
    "bound": "grid bound",
}


@dataclass(frozen=True)
class Scores:
    """Scores of one or several runs.

    runs    : a name per run; runs of one name are repetitions
    layers  : the layers of each model
    classes : names
    values  : (run, model, layer) by name, `iou` (run, model, layer, class); NaN where a model has fewer layers
    """

    runs: list[str]
    layers: dict[str, list[int]]
    classes: list[str]
    method: str
    values: dict[str, Floats]

    @property
    def names(self) -> list[str]:
        """Return the runs' names without repetitions."""
        return list(dict.fromkeys(self.runs))

    def of(self, name: str, model: str, score: str) -> Floats:
        """Return (repetition, layer) of one score."""
        chosen = [index for index, run in enumerate(self.runs) if run == name]
        at = list(self.layers).index(model)
        return self.values[score][chosen, at, : len(self.layers[model])]

    def title(self, controls: Sequence[str]) -> str:
        """Say what the table is, and that it is a control."""
        return title_with_controls(f"mIoU over {len(self.classes)} classes, {self.method}", controls)


def read_scores(store: Store) -> Scores:
    """Read every array of scores of a segments store made with masks."""
    params = store.record["params"]
    several = store.has("runs")
    folder = "runs" if several else "scores"
    attributes: dict[str, Any] = store.group[folder].attrs.asdict()
    values = {name: store.read(f"{folder}/{name}").astype(np.float64) for name in store.names(folder)}
    if not several:
        values = {name: array[None] for name, array in values.items()}
    clusters = ", ".join(map(str, params["clusters"]))
    return Scores(
        runs=list(attributes["runs"]) if several else list(store.record["runs"]),
        layers={model.name: list(model.layers) for model in store.axes.models},
        classes=list(attributes["classes"]),
        method=f"{clusters} clusters by {params['method']}, matched to classes" if clusters else "oracle centres",
        values=values,
    )


def tabulate(scores: Scores) -> tuple[list[str], list[list[object]]]:
    """Return header and rows: one row per run's name, model and layer; over repetitions the mean, and their spread."""
    repeated = len(scores.names) < len(scores.runs)
    shown = [name for name in (*SHOWN, *_levels(scores)) if name in scores.values]
    header = [*(["run"] if len(scores.names) > 1 else []), "model", "layer", *(SHOWN.get(n, n) for n in shown)]
    header += ["runs", "mIoU sd"] if repeated else []
    rows: list[list[object]] = []
    for name in scores.names:
        for model, layers in scores.layers.items():
            columns = {score: scores.of(name, model, score) for score in shown}
            for at, layer in enumerate(layers):
                row: list[object] = [*([name] if len(scores.names) > 1 else []), model, layer]
                row += [_number(column[:, at].mean()) for column in columns.values()]
                if repeated:
                    miou = columns["miou"][:, at]
                    row += [len(miou), _number(miou.std(ddof=1)) if len(miou) > 1 else None]
                rows.append(row)
    return header, rows


def list_runs(scores: Scores) -> tuple[list[str], list[list[object]]]:
    """Return header and rows with every repetition on a line of its own, as numbers in full."""
    shown = [name for name in (*SHOWN, *_levels(scores)) if name in scores.values]
    rows: list[list[object]] = [
        [name, repetition, model, layer, *(scores.of(name, model, score)[repetition, at] for score in shown)]
        for name in scores.names
        for repetition in range(scores.runs.count(name))
        for model, layers in scores.layers.items()
        for at, layer in enumerate(layers)
    ]
    return ["run", "repetition", "model", "layer", *shown], rows


def list_classes(scores: Scores) -> tuple[list[str], list[list[object]]]:
    """Return header and rows of the IoU of every class, a column each."""
    rows: list[list[object]] = [
        [name, repetition, model, layer, *scores.of(name, model, "iou")[repetition, at]]
        for name in scores.names
        for repetition in range(scores.runs.count(name))
        for model, layers in scores.layers.items()
        for at, layer in enumerate(layers)
    ]
    return ["run", "repetition", "model", "layer", *scores.classes], rows


def _levels(scores: Scores) -> list[str]:
    return sorted((name for name in scores.values if name.startswith("miou_")), key=lambda n: -int(n[5:]))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
