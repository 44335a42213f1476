"""Tables and the heat map of an alignment, for `align --figures`: scores by ROI, and which layer predicts which ROI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.stages.align.scores import COLUMNS
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.alignment import SLOT_SCORES, Alignment
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.score_plots import plot_layer_scores

PROCESS_BYTES = 300_000_000


class AlignFigures:
    """scores.csv, layers.csv and layers.png."""

    def __init__(self, work: Work, source: Store, console: Console) -> None:
        self.work, self.source, self.console = work, source, console
        self.alignment, self.controls = Alignment(source), collect_controls(source)
        if "slot_rois" not in source.record:
            raise BadInput(f"{source.path} holds no scores of single layers", do="Make it again with this aligncut.")

    def plan(self) -> Plan:
        """Return what a few small tables and one plot need."""
        return Plan(memory=PROCESS_BYTES, disk=1_000_000)

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the one phase."""
        return [single_step("figures", self._write)]

    def _write(self) -> None:
        folder = self.work.staging
        folder.mkdir(exist_ok=True)
        scores = self.source.record["summary"]["scores"]
        rows = [[roi, *(values.get(column) for column in COLUMNS)] for roi, values in scores.items()]
        write_csv(folder / "scores.csv", ["roi", *COLUMNS], rows, controls=self.controls)
        rois: list[str] = self.source.record["slot_rois"]
        table: list[list[object]] = []
        heat: dict[str, NDArray[np.float32]] = {}
        for model in self.source.record["models"]:
            r2, r = (self.alignment.read_slot_score(score, model) for score in SLOT_SCORES)
            heat[model] = r2[..., 0]
            for at, layer in enumerate(self.alignment.layers(model)):
                for k, roi in enumerate(rois):
                    table.append([model, layer, roi, *map(float, r2[at, k]), *map(float, r[at, k])])
        header = ["model", "layer", "roi", "r2", "r2_low", "r2_high", "r", "r_low", "r_high"]
        write_csv(folder / "layers.csv", header, table, controls=self.controls)
        layers = {model: self.alignment.layers(model) for model in heat}
        save_figure(plot_layer_scores(rois, layers, heat, controls=self.controls), folder / "layers.png")

    def finish(self) -> Outcome:
        """Give the folder its name."""
        self.console.note(f"tables and pictures are in {self.work.output}")
        return self.work.finish(models=self.source.record["models"], controls=self.controls)
