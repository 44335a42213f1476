"""Tables and heat maps of an alignment, for `align --figures`: scores by ROI and layer, and what the layers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.maths.response_scores import average_over_rois
from aligncut_cli.params import AlignParams
from aligncut_cli.stages.align.scores import COLUMNS
from aligncut_cli.stages.regions import order_regions, place_regions
from aligncut_cli.stages.style import read_style
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.alignment import CEILING, CONSENSUS_R2, SLOT_SCORES, Alignment
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.score_plots import RoiScore, plot_layer_scores, plot_roi_scores

PROCESS_BYTES = 300_000_000


class AlignFigures:
    """scores.csv, layers.csv and layers.png of the responses; consensus.csv and .png of what the slots share."""

    def __init__(self, work: Work, source: Store, params: AlignParams, console: Console) -> None:
        self.work, self.source, self.console = work, source, console
        self.alignment, self.controls = Alignment(source), collect_controls(source)
        self.style = read_style(params, source.record["models"])
        self.shared: Mapping[str, Any] | None = source.record.get("summary", {}).get("consensus")
        if "slot_rois" not in source.record and self.shared is None:
            raise BadInput(f"{source.path} holds no scores of single layers", do="Make it again with this aligncut.")

    def plan(self) -> Plan:
        """Return what a few small tables and one plot need."""
        return Plan(memory=PROCESS_BYTES, disk=1_000_000)

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the one phase."""
        return [single_step("figures", self._write)]

    def _write(self) -> None:
        self.work.staging.mkdir(exist_ok=True)
        if self.shared is not None:
            self._write_consensus(self.shared)
        if "slot_rois" in self.source.record:
            self._write_scores()

    def _write_consensus(self, shared: Mapping[str, Any]) -> None:
        """Write how well every slot alone predicts the consensus of the others."""
        heat = {model: self.alignment.read_slot_score(CONSENSUS_R2, model) for model in self.source.record["models"]}
        table = [
            [model, layer, slot["weight"], *map(float, r2), slot["r2_by_position"]]
            for model, values in heat.items()
            for layer, r2 in zip(self.alignment.layers(model), values, strict=True)
            for slot in [shared["slots"][f"{model}:{layer}"]]
        ]
        header = ["model", "layer", "weight", "r2", "r2_low", "r2_high", "r2_by_position"]
        write_csv(self.work.staging / "consensus.csv", header, table, controls=self.controls)
        values = {model: r2[:, :1] for model, r2 in heat.items()}
        self._draw("consensus", ["consensus of the others"], values)

    def _draw(self, name: str, columns: Sequence[str], heat: Mapping[str, NDArray[np.float32]]) -> None:
        layers = {model: self.alignment.layers(model) for model in heat}
        figure = plot_layer_scores(columns, layers, heat, style=self.style, controls=self.controls)
        save_figure(figure, self.style.file(self.work.staging, name))

    def _write_scores(self) -> None:
        folder = self.work.staging
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
        places = place_regions(rois)
        self._draw("layers", [rois[at] for at in places], {name: values[:, places] for name, values in heat.items()})
        ceiling = self._read_ceiling()
        bars = [
            RoiScore(roi, own["r2"], own.get("r2_low"), own.get("r2_high"), own.get("ridge_r2"), ceiling.get(roi))
            for roi, own in ((roi, scores[roi]) for roi in order_regions(list(scores)))
            if own.get("r2") is not None
        ]
        if bars:
            figure = plot_roi_scores(bars, style=self.style, controls=self.controls)
            save_figure(figure, self.style.file(folder, "scores"))

    def _read_ceiling(self) -> Mapping[str, float | None]:
        """Return the explainable share of variance by region, where it is known."""
        if not self.alignment.has_score(CEILING):
            return {}
        return average_over_rois(self.alignment.read_score(CEILING), self.alignment.read_rois())

    def finish(self) -> Outcome:
        """Give the folder its name."""
        return self.work.finish(models=self.source.record["models"], controls=self.controls)
