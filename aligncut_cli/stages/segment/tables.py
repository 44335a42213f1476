"""Reads the scores of a segments store back, as rows for tables, CSV and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.controls import title_with_controls
from aligncut_cli.maths.finite import finite_or_none
from aligncut_cli.store.kinds.segments import MEANINGS, Segments, name_level_score
from aligncut_cli.store.read import Store

Floats = NDArray[np.float64]
Table = tuple[list[str], list[list[object]]]
HEADINGS = {
    "miou": "mIoU",
    "threshold": "threshold",
    "image_miou": "per image",
    "chance": "chance",
    "shuffled": "other masks",
    "bound": "grid bound",
}
"""What the scores of `kinds.segments.MEANINGS` are called in tables."""


@dataclass(frozen=True)
class Scores:
    """Scores of one or several runs.

    runs    : a name per run; runs of one name are repetitions
    layers  : the layers of each model
    classes : names
    levels  : numbers of coarser clusters that have a score of their own
    values  : (run, model, layer) by name, `iou` (run, model, layer, class); NaN where a model has fewer layers
    """

    runs: list[str]
    layers: dict[str, list[int]]
    classes: list[str]
    levels: list[int]
    method: str
    values: dict[str, Floats]

    @property
    def names(self) -> list[str]:
        """Return the runs' names without repetitions."""
        return list(dict.fromkeys(self.runs))

    @property
    def shown(self) -> list[str]:
        """Return the names of the scores that are one number per slot, in the order of tables."""
        return [name for name in (*MEANINGS, *map(name_level_score, self.levels)) if name in self.values]

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
    segments = Segments(store)
    clusters = ", ".join(map(str, segments.clusters))
    return Scores(
        runs=segments.runs,
        layers={model.name: list(model.layers) for model in segments.axes.models},
        classes=list(segments.score_attributes["classes"]),
        levels=segments.clusters[1:],
        method=f"{clusters} clusters by {store.record['params']['method']}, matched to classes"
        if clusters
        else "oracle centres",
        values={name: segments.read_score(name).astype(np.float64) for name in segments.score_names},
    )


def tabulate(scores: Scores) -> Table:
    """Return header and rows: one row per run's name, model and layer; over repetitions the mean, and their spread."""
    repeated = len(scores.names) < len(scores.runs)
    several = len(scores.names) > 1
    header = ["run"] * several + ["model", "layer", *(HEADINGS.get(name, name) for name in scores.shown)]
    header += ["runs", "mIoU sd"] * repeated
    rows: list[list[object]] = []
    for name in scores.names:
        for model, layers in scores.layers.items():
            columns = {score: scores.of(name, model, score) for score in scores.shown}
            for at, layer in enumerate(layers):
                row: list[object] = [*[name] * several, model, layer]
                row += [finite_or_none(column[:, at].mean()) for column in columns.values()]
                if repeated:
                    miou = columns["miou"][:, at]
                    row += [len(miou), finite_or_none(miou.std(ddof=1)) if len(miou) > 1 else None]
                rows.append(row)
    return header, rows


def list_runs(scores: Scores) -> Table:
    """Return header and rows with every repetition on a line of its own, as numbers in full."""
    return _list_repetitions(
        scores,
        scores.shown,
        lambda name, model, place: [scores.of(name, model, score)[place] for score in scores.shown],
    )


def list_classes(scores: Scores) -> Table:
    """Return header and rows of the IoU of every class, a column each."""
    return _list_repetitions(scores, scores.classes, lambda name, model, place: scores.of(name, model, "iou")[place])


def _list_repetitions(
    scores: Scores, columns: Sequence[str], values: Callable[[str, str, tuple[int, int]], Sequence[object] | Floats]
) -> Table:
    """Return header and rows of every run, model and layer.

    values : of the columns, given the run's name, the model, and the positions of repetition and layer
    """

    def list_rows() -> Iterator[list[object]]:
        for name in scores.names:
            for repetition in range(scores.runs.count(name)):
                for model, layers in scores.layers.items():
                    for at, layer in enumerate(layers):
                        yield [name, repetition, model, layer, *values(name, model, (repetition, at))]

    return ["run", "repetition", "model", "layer", *columns], list(list_rows())
