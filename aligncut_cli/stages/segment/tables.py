"""Reads the scores of a segments store back, as rows for tables, CSV and plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.controls import title_with_controls
from aligncut_cli.maths.finite import finite_or_none
from aligncut_cli.maths.paired import PairedTest, compare_paired
from aligncut_cli.store.kinds.base import AnyStore
from aligncut_cli.store.kinds.segments import MEANINGS, Segments, name_level_score
from aligncut_cli.store.read import collect_controls

Floats = NDArray[np.float64]
Table = tuple[list[str], list[list[object]]]
Column = tuple[str, Callable[[str, int], object]]
"""A heading, and what gives the cell of a model and the position of a layer."""
BRIEF = ("miou", "shuffled")
"""What a terminal shows of every run where several stand side by side."""
EACH_IMAGE, PAIRED_DRAWS = "each_image", 9_999
SHARED = ("bound",)
"""Scores of the masks alone, so the same for every run."""


@dataclass(frozen=True)
class Scores:
    """Scores of one or several runs.

    runs    : a name per run; runs of one name are repetitions
    layers  : the layers of each model
    classes : names
    levels  : numbers of coarser clusters that have a score of their own
    method  : how the segments were made
    marks   : by the name of each run that is a control, of what
    values  : (run, model, layer) by name, `iou` (run, model, layer, class); NaN where a model has fewer layers
    """

    runs: list[str]
    layers: dict[str, list[int]]
    classes: list[str]
    levels: list[int]
    method: str
    marks: dict[str, list[str]]
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

    @property
    def controls(self) -> list[str]:
        """Return what is a control, with the run's name where there are several."""
        several = len(self.names) > 1
        return [
            f"{', '.join(marks)} (run {name})" if several else ", ".join(marks) for name, marks in self.marks.items()
        ]

    @property
    def classes_scored(self) -> str:
        """Say how many classes mIoU is a mean over: those that occur, in masks or segments."""
        counted = np.isfinite(self.values["iou"]).any(axis=(0, 1, 2)).sum() if "iou" in self.values else 0
        named = len(self.classes)
        return f"{named} classes" if counted in (0, named) else f"the {counted} of {named} classes that occur"

    @property
    def title(self) -> str:
        """Say what the table is, and what in it is a control."""
        return title_with_controls(f"mIoU over {self.classes_scored}, {self.method}", self.controls)


def name_method(clusters: Sequence[int], method: str, n_eig: int | None) -> str:
    """Say how segments are made: into how many clusters, the finest first, or by the oracle where there are none."""
    if clusters:
        return f"{', '.join(map(str, clusters))} clusters by {method}, matched to classes"
    return "oracle centres" + (f" of {n_eig} eigenvectors" if n_eig else "")


def read_scores(store: AnyStore) -> Scores:
    """Read every array of scores of a segments store made with masks."""
    segments = Segments(store)
    n_eig = store.record.get("summary", {}).get("n_eig")
    marks = store.record.get("run_controls", dict.fromkeys(segments.runs, collect_controls(store)))
    return Scores(
        runs=segments.runs,
        layers={model.name: list(model.layers) for model in segments.axes.models},
        classes=list(segments.score_attributes["classes"]),
        levels=segments.clusters[1:],
        method=name_method(segments.clusters, store.record["params"]["method"], n_eig),
        marks={name: found for name, found in marks.items() if found},
        values={name: segments.read_score(name).astype(np.float64) for name in segments.score_names},
    )


def tabulate(scores: Scores, *, brief: bool = False) -> Table:
    """Return header and rows: one row per model and layer, and of each run's name a group of columns beside each other.

    Over repetitions it is their mean, with the spread of mIoU.

    brief : of several runs BRIEF and SHARED only, as fits a terminal
    """
    several = len(scores.names) > 1
    each = [name for name in scores.shown if not several or name not in SHARED]
    if brief and several:
        each = [name for name in BRIEF if name in each]
    columns = [column for name in scores.names for column in _run_columns(scores, name, each, prefix=several)]
    shared = [name for name in scores.shown if name not in each and name in SHARED]
    columns += [(name, partial(_mean, scores, scores.names[0], name)) for name in shared]
    rows: list[list[object]] = [
        [model, layer, *(read(model, at) for _, read in columns)]
        for model, layers in scores.layers.items()
        for at, layer in enumerate(layers)
    ]
    return ["model", "layer", *(heading for heading, _ in columns)], rows


def _run_columns(scores: Scores, name: str, shown: Sequence[str], *, prefix: bool) -> list[Column]:
    """Return the columns of one run's name; how many runs and their spread where any name has repetitions."""
    before = f"{name} " if prefix else ""
    columns: list[Column] = [(before + score, partial(_mean, scores, name, score)) for score in shown]
    if len(scores.names) < len(scores.runs):
        columns += [
            (f"{before}runs", lambda model, at: scores.runs.count(name)),
            (f"{before}miou sd", partial(_spread, scores, name)),
        ]
    return columns


def _mean(scores: Scores, name: str, score: str, model: str, at: int) -> float | None:
    return finite_or_none(scores.of(name, model, score)[:, at].mean())


def _spread(scores: Scores, name: str, model: str, at: int) -> float | None:
    miou = scores.of(name, model, "miou")[:, at]
    return finite_or_none(miou.std(ddof=1)) if len(miou) > 1 else None


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


@dataclass(frozen=True)
class Pair:
    """Two runs on the same images, at one slot, or on the mean over all slots where `model` is empty."""

    first: str
    second: str
    model: str
    layer: int | None
    test: PairedTest


def compare_runs(scores: Scores) -> list[Pair]:
    """Test every later run against the first, image by image: all slots averaged, then every slot.

    Repetitions of a run are averaged; empty where there is one run, or no score of single images.
    """
    if EACH_IMAGE not in scores.values:
        return []
    pairs = []
    first, *others = scores.names
    for other in others:
        own = {name: _average_repetitions(scores, name) for name in (first, other)}
        slots: list[tuple[str, int | None, tuple[Floats, Floats]]] = [
            (model, layer, (own[first][model][at], own[other][model][at]))
            for model, layers in scores.layers.items()
            for at, layer in enumerate(layers)
        ]
        means = tuple(np.mean([values[side] for _, _, values in slots], axis=0) for side in (0, 1))
        for model, layer, (one, two) in [("", None, (means[0], means[1])), *slots]:
            test = compare_paired(one, two, n_draws=PAIRED_DRAWS, seed=0)
            pairs.append(Pair(first, other, model, layer, test))
    return pairs


def _average_repetitions(scores: Scores, name: str) -> dict[str, Floats]:
    """Return for each model (layer, image) of one run's name."""
    return {model: scores.of(name, model, EACH_IMAGE).mean(axis=0) for model in scores.layers}


def describe_pairs(pairs: Sequence[Pair]) -> list[str]:
    """Say of each two runs whether they differ, all slots averaged."""
    return [
        f"{pair.second} less {pair.first}, mIoU of single images, all layers averaged: {pair.test.difference:+.3f} "
        f"(standard error {pair.test.error:.3f}, {pair.test.n_images:,} images; p = {pair.test.p:.4f}, paired)"
        for pair in pairs
        if not pair.model
    ]


def list_pairs(pairs: Sequence[Pair]) -> Table:
    """Return header and rows of every test; model and layer are empty for the mean over all slots."""
    header = ["first", "second", "model", "layer", "difference", "error", "images", "p"]
    return header, [
        [
            *(pair.first, pair.second, pair.model, pair.layer),
            *(pair.test.difference, pair.test.error, pair.test.n_images, pair.test.p),
        ]
        for pair in pairs
    ]


def list_images(scores: Scores, ids: Sequence[str]) -> Table:
    """Return header and rows of each image's own mIoU, a row per image of every run and slot.

    ids : of every image
    """
    header, wide = _list_repetitions(scores, ids, lambda name, model, place: scores.of(name, model, EACH_IMAGE)[place])
    rows = [
        [*row[:4], image, value, *row[4 + len(ids) :]]
        for row in wide
        for image, value in zip(ids, row[4 : 4 + len(ids)], strict=True)
    ]
    return [*header[:4], "image", "miou", *header[4 + len(ids) :]], rows


def _list_repetitions(
    scores: Scores, columns: Sequence[str], values: Callable[[str, str, tuple[int, int]], Sequence[object] | Floats]
) -> Table:
    """Return header and rows of every run, model and layer; a row of a control says so.

    values : of the columns, given the run's name, the model, and the positions of repetition and layer
    """

    def list_rows() -> Iterator[list[object]]:
        for name in scores.names:
            for repetition in range(scores.runs.count(name)):
                for model, layers in scores.layers.items():
                    for at, layer in enumerate(layers):
                        row = [name, repetition, model, layer, *values(name, model, (repetition, at))]
                        yield row + ["; ".join(scores.marks.get(name, []))] * bool(scores.marks)

    header = ["run", "repetition", "model", "layer", *columns, *["control"] * bool(scores.marks)]
    return header, list(list_rows())
