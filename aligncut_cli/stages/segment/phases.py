"""The computation of `segment`: passes of one of two ways over blocks of images, then labels and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import format_table
from aligncut_cli.machine import cpu_count
from aligncut_cli.masks import MaskSet
from aligncut_cli.params import SegmentParams
from aligncut_cli.stages.segment.clusters import Clusters
from aligncut_cli.stages.segment.oracle import Oracle
from aligncut_cli.stages.segment.passes import ByModel, Floats, Layout, Place, Rows, Setting, Sums, Truth
from aligncut_cli.stages.segment.runs import Run
from aligncut_cli.stages.segment.tables import Scores, compare_runs, describe_pairs, name_method, tabulate
from aligncut_cli.store.kinds.base import create_node_arrays, put_images
from aligncut_cli.store.kinds.segments import (
    SCORES,
    create_scores,
    declare_labels,
    declare_run_score,
    declare_score,
)
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.store.write import Writer, create_group

PROCESS_BYTES = 300_000_000
NO_LABEL = -1


class Way(Protocol):
    """A way of segmenting.

    usual_n_eig : leading eigenvectors it takes where none are asked for; None is all
    scores      : names of the scores it gives
    coarser     : numbers of clusters of the levels beside the finest one
    """

    usual_n_eig: int | None
    scores: tuple[str, ...]
    coarser: tuple[int, ...]

    def bytes_of_sums(self) -> int:
        """Return the memory of what one block is summed into."""
        ...

    def create(self, root: Any, scratch: Any) -> None:
        """Create arrays of its own in the store and in the scratch."""
        ...

    def passes(self) -> Sequence[Phase[Any]]:
        """Return the phases before labelling."""
        ...

    def label(self, rows: Rows) -> Mapping[str, list[NDArray[np.int16]]]:
        """Return for each model the labels (layer, image, patch) of a block of the first store, the finest first."""
        ...

    def score(self, run: int) -> Mapping[str, ByModel]:
        """Return by name the scores of one store, (layer,) of each model, `iou` (layer, class)."""
        ...


WAYS: dict[str, type[Oracle] | type[Clusters]] = {"oracle": Oracle, "clusters": Clusters}


class SegmentStage:
    """One run of the stage: passes over every store, labels of the first, scores of all."""

    def __init__(
        self,
        work: Work,
        runs: Sequence[Run],
        masks: MaskSet | None,
        params: SegmentParams,
    ) -> None:
        self.work, self.params, self.console = work, params, work.console
        self.controls = collect_controls(runs[0].store)
        self.run_controls = {
            run.name: collect_controls(*(other.store for other in runs if other.name == run.name)) for run in runs
        }
        way = WAYS["clusters" if params.clusters else "oracle"]
        self.layout = Layout(runs, n_eig=params.n_eig, usual=way.usual_n_eig)
        self.axes = self.layout.axes
        self.truth = None if masks is None else Truth(masks, self.layout.images, seed=params.seed)
        self.classes = [] if self.truth is None else self.truth.classes
        self.n_layers = max(len(model.layers) for model in self.axes.models)
        self.writer = Writer(work.staging)
        setting = Setting(
            layout=self.layout,
            truth=self.truth,
            sums=Sums(work.scratch, self.layout, n_classes=len(self.classes)),
            writer=self.writer,
            params=params,
            n_threads=work.options.workers or cpu_count(),
            console=work.console,
        )
        self.way: Way = way(setting)
        self.labels = declare_labels(self.way.coarser)

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        return [
            single_step("create", self._create),
            *self.way.passes(),
            self.layout.phase("label", self._label, first_only=True),
            *([] if self.truth is None else [single_step("scores", self._score)]),
        ]

    def plan(self) -> Plan:
        """Return what a pass holds, and the labels."""
        layout, images = self.layout, self.layout.images
        rows = self.axes.n_nodes // layout.n_images * layout.per_block * layout.n_eig * 4
        largest = int((images["height"].astype(np.int64) * images["width"]).max())
        return Plan(
            memory=PROCESS_BYTES + 4 * rows + self.way.bytes_of_sums() + 60 * largest,
            disk=self.axes.n_nodes * 2 * len(self.labels),
            notes={"images": layout.n_images, "stores": len(layout.stores), "classes": len(self.classes)},
        )

    # phases

    def _create(self) -> None:
        root, scratch = create_group(self.work.staging), create_group(self.work.scratch)
        put_images(root, self.layout.images, {})
        per_chunk = dict.fromkeys(self.axes.names, self.layout.places[0].n_images)
        create_node_arrays(root, self.axes, self.labels, {}, images_per_block=per_chunk)
        if self.truth is not None:
            sizes = {"model": len(self.axes.models), "layer": self.n_layers, "class": len(self.classes)}
            sizes["image"] = self.layout.n_images
            attributes = {"classes": self.classes, "models": self.axes.names}
            create_scores(root, self.way.scores, sizes, runs=self.layout.names, attributes=attributes)
        self.way.create(root, scratch)

    def _label(self, index: int, place: Place, rows: Rows) -> None:
        """Write the labels of every patch of a block; the class token gets NO_LABEL."""
        for name, levels in self.way.label(rows).items():
            skipped = int(self.axes[name].class_token)
            for array, labels in zip(self.labels, levels, strict=True):
                padded = np.pad(labels, ((0, 0), (0, 0), (skipped, 0)), constant_values=NO_LABEL)
                self.writer.write(array.at(name), (slice(None), place.images), padded)

    def _score(self) -> None:
        every = [self.way.score(run) for run in range(len(self.layout.stores))]
        for name in self.way.scores:
            values = np.stack([self._stack_models(scores[name]) for scores in every]).astype(np.float32)
            self.writer.write(declare_score(name).at(), ..., values[0])
            if len(every) > 1:
                self.writer.write(declare_run_score(name).at(), ..., values)

    def _stack_models(self, values: ByModel) -> Floats:
        """Stack (layer, ...) of every model to (model, layer, ...), NaN where a model has fewer layers."""
        tail = next(iter(values.values())).shape[1:]
        out = np.full((len(self.axes.models), self.n_layers, *tail), np.nan)
        for row, name in zip(out, self.axes.names, strict=True):
            row[: len(values[name])] = values[name]
        return out

    # ending

    def finish(self) -> Outcome:
        """Give the store its name, with the best slot's scores and the table of all."""
        said = [f"{self.layout.n_images:,} images, segments of {', '.join(self.axes.names)}"]
        usual, used = self.way.usual_n_eig, self.layout.n_eig
        if self.params.n_eig is None and usual is not None and used < usual:
            said.append(f"scored with all {used} eigenvectors there are; the paper scores with {usual}")
        if self.truth is not None:
            scores = self._collect_scores()
            said.append(format_table(*tabulate(scores, brief=True), title=scores.title))
            said += describe_pairs(compare_runs(scores))
        return self.work.finish(
            models=self.axes.names,
            summary={"images": self.layout.n_images, "n_eig": self.layout.n_eig, **self._summarize()},
            said=said,
            controls=self.controls,
            run_controls=self.run_controls,
            classes=self.classes,
            runs=self.layout.names,
        )

    def _collect_scores(self) -> Scores:
        """Return the scores of every run as they were written."""
        several = len(self.layout.names) > 1
        values = {
            name: self.writer.read(declare_run_score(name).at())
            if several
            else self.writer.read(declare_score(name).at())[None]
            for name in self.way.scores
        }
        return Scores(
            runs=list(self.layout.names),
            layers={model.name: list(model.layers) for model in self.axes.models},
            classes=self.classes,
            levels=list(self.way.coarser),
            method=name_method(self.params.clusters, self.params.method, self.layout.n_eig),
            marks={name: found for name, found in self.run_controls.items() if found},
            values={name: value.astype(np.float64) for name, value in values.items()},
        )

    def _summarize(self) -> dict[str, Any]:
        """Return the scores of the slot with the highest mIoU, where there are masks."""
        if self.truth is None:
            return {}
        miou, bound, shuffled = (self.writer.read(SCORES[name].at()) for name in ("miou", "bound", "shuffled"))
        best = np.unravel_index(int(np.nanargmax(miou)), miou.shape)
        model = self.axes.models[int(best[0])]
        return {
            "classes": len(self.classes),
            "best_slot": f"{model.name}:{model.layers[int(best[1])]}",
            "best_miou": float(miou[best]),
            "shuffled_miou": float(shuffled[best]),
            "bound_miou": float(bound[best]),
        }
