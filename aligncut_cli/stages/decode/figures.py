"""Tables, plots and a sheet of failures of a decoding, for `decode --figures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from aligncut_cli.console import Console
from aligncut_cli.params import DecodeParams
from aligncut_cli.stages.decode.curves import Curves
from aligncut_cli.stages.decode.tables import list_categories, list_neurons, list_scores
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.style import read_style
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.base import read_images
from aligncut_cli.store.kinds.decoding import RANK, WRONG, Decoding
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.decoding_plots import RunBar, plot_candidates, plot_look, plot_neurons, plot_runs
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.sheet import Row, draw_sheet

PROCESS_BYTES = 300_000_000
TILE = 224


class DecodeFigures:
    """scores, candidates, neurons and categories as CSV and plots; missed images; where neurons look."""

    def __init__(self, work: Work, source: Store, params: DecodeParams, console: Console) -> None:
        self.work, self.source, self.console, self.n_pictures = work, source, console, params.pictures
        self.decoding, self.controls = Decoding(source), collect_controls(source)
        self.curves, self.summary = Curves(self.decoding), source.record["summary"]
        self.photos = Photos(read_images(source), params.photos)
        self.style = read_style(params, self.curves.runs)

    def plan(self) -> Plan:
        """Return what a few small tables, plots and tiles need."""
        return Plan(memory=PROCESS_BYTES, disk=2_000_000 + self.n_pictures * 40_000 * len(self.curves.runs))

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        return [single_step("scores", self._write_scores), single_step("failures", self._draw_failures)]

    def _write_scores(self) -> None:
        folder = self.work.staging
        folder.mkdir(exist_ok=True)
        tables = {"scores": list_scores, "neurons": list_neurons, "categories": list_categories}
        for name, table in tables.items():
            header, rows = table(self.summary)
            if rows:
                write_csv(folder / f"{name}.csv", header, rows, controls=self.controls)
        numbers, by_run, chance = self.curves.numbers, self.curves.by_candidates(), self.curves.chance()
        columns = zip(numbers, *by_run.values(), chance, strict=True)
        header = ["candidates", *by_run, "guessing"]
        write_csv(folder / "candidates.csv", header, [list(row) for row in columns], controls=self.controls)
        look: dict[str, Any] = {"style": self.style, "controls": self.controls}
        self._save(plot_candidates(numbers, by_run, chance, **look), "candidates")
        bars = [RunBar(run["run"], *run["top1"]) for run in self.summary["runs"]]
        self._save(plot_runs(bars, chance=self.summary["chance"]["top1"], **look), "runs")
        sizes, top, random = self.curves.by_neurons()
        if sizes:
            self._save(plot_neurons(sizes, top, random, **look), "neurons")
        for number, tower in enumerate(self.decoding.towers):
            self._save(plot_look(*self.curves.look(tower), **look), f"look-{number}")

    def _save(self, figure: Figure, name: str) -> None:
        save_figure(figure, self.style.file(self.work.staging, name))

    def _draw_failures(self) -> None:
        """Draw seen images that the first run missed, chosen at random, beside every run's nearest wrong image."""
        ranks, wrong = self.decoding.read(RANK), self.decoding.read(WRONG)
        missed = np.flatnonzero(ranks[0] > 1)
        chosen = np.sort(np.random.default_rng(self.source.record["seed"]).permutation(missed)[: self.n_pictures])
        real = [at for at, run in enumerate(self.summary["runs"]) if not run["shuffled"]]
        rows = []
        for image in chosen.tolist():
            tiles = [("seen", self._tile(image))]
            for run in real:
                caption = f"{self.style.name(self.curves.runs[run])}: {int(ranks[run, image])}."
                tiles.append((caption, self._tile(int(wrong[run, image]))))
            rows.append(Row(self.photos.id(image), tiles))
        if rows:
            title = "Seen images that were missed, their place, and the nearest wrong image"
            sheet = draw_sheet(rows, title=title, style=self.style, controls=self.controls)
            sheet.save(self.style.file(self.work.staging, "failures"))

    def _tile(self, image: int) -> Any:
        return self.photos.read(image, self.photos.tile_size(image, TILE))

    def finish(self) -> Outcome:
        """Give the folder its name, and say which photos are gone."""
        self.photos.say_missing(self.console)
        self.console.note(f"tables and pictures are in {self.work.output}")
        return self.work.finish(controls=self.controls)
