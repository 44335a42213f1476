"""Tables, plots, indexed label pictures and overlays of a segments store, for `segment --figures`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.masks import MaskSet
from aligncut_cli.maths.grid import resize_mask, spread_tokens
from aligncut_cli.params import SegmentParams
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.segment.tables import (
    EACH_IMAGE,
    Scores,
    compare_runs,
    list_classes,
    list_images,
    list_pairs,
    list_runs,
    read_scores,
    tabulate,
)
from aligncut_cli.stages.style import read_style
from aligncut_cli.store.folder import file_for_image, write_csv
from aligncut_cli.store.kinds.segments import Segments
from aligncut_cli.store.nodes import ModelAxes
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.canvas import Canvas, Pixels, stack_canvases
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.labels import MOST_INDEXED, blend_labels, indexed_picture, list_keys
from aligncut_cli.viz.score_plots import ScoreLine, plot_scores
from aligncut_cli.viz.sheet import Row, draw_sheet

PROCESS_BYTES = 300_000_000
TILE = 224
OVERVIEW_IMAGES = 6


class SegmentFigures:
    """Scores as CSV and plot; for some images every slot's labels as a picture and over the photo."""

    def __init__(
        self,
        work: Work,
        source: Store,
        masks: MaskSet | None,
        params: SegmentParams,
        console: Console,
        *,
        photos: Path | str | None,
    ) -> None:
        self.work, self.masks, self.console = work, masks, console
        self.segments = Segments(source)
        self.photos = Photos(self.segments.images(), photos)
        self.n_pictures = min(params.pictures, len(self.photos))
        self.style = read_style(params, self.segments.axes.names)
        self.controls = collect_controls(source)
        self.folder, self.overlays = work.staging, work.staging / "overlays"
        self.first_colour = int(bool(self.segments.clusters))  # no cluster is the background
        self.palette = "safe" if masks is None else masks.palette

    def plan(self) -> Plan:
        """Return what the largest photo takes, and the pictures."""
        sizes = [self.photos.size(image) for image in range(max(1, self.n_pictures))]
        return Plan(
            memory=PROCESS_BYTES + 40 * max(height * width for height, width in sizes),
            disk=self.n_pictures * len(self.segments.axes.slots) * 40_000,
            notes={"images": self.n_pictures},
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        pictures = Phase("pictures", range(self.n_pictures), self._draw, label="figures", unit="images", parallel=True)
        return [single_step("scores", self._write_scores), pictures, single_step("overview", self._draw_overview)]

    def finish(self) -> Outcome:
        """Give the folder its name, and say which photos are gone."""
        self.photos.look_for(range(self.n_pictures))
        self.photos.say_missing(self.console)
        summary = {"images": self.n_pictures}
        return self.work.finish(models=self.segments.axes.names, summary=summary, controls=self.controls)

    def _write_scores(self) -> None:
        self.folder.mkdir(exist_ok=True)
        if not self.segments.scored:
            return
        scores = read_scores(self.segments.store)
        write_csv(self.folder / "scores.csv", *tabulate(scores), controls=scores.controls)
        for name, table in (("runs", list_runs), ("classes", list_classes)):
            write_csv(self.folder / f"{name}.csv", *table(scores), controls=[])  # each row says itself what it is
        if EACH_IMAGE in scores.values:
            ids = [self.photos.id(image) for image in range(len(self.photos))]
            write_csv(self.folder / "images.csv", *list_images(scores, ids), controls=[])
        pairs = compare_runs(scores)
        if pairs:
            write_csv(self.folder / "pairs.csv", *list_pairs(pairs), controls=scores.controls)
        title = f"{scores.method}, {scores.classes_scored}, {len(self.photos)} images"
        figure = plot_scores(_score_lines(scores), title=title, style=self.style, controls=scores.controls)
        save_figure(figure, self.style.file(self.folder, "scores"))

    def _draw(self, index: int, image: int, data: None) -> None:
        """Draw one image: an indexed picture per slot and level, and all of them over the photo."""
        self._lay_out(image).save(file_for_image(self.overlays, self.photos.id(image), f".{self.style.format}"))

    def _lay_out(self, image: int) -> Canvas:
        """Return all segments of an image over its photo; writes the indexed pictures."""
        name, size = self.photos.id(image), self.photos.tile_size(image, TILE)
        photo = self.photos.read(image, size)
        first, shown = [("photo", photo)], set()
        if self.masks is not None:
            mask = self.masks.read(name, size=self.photos.size(image))
            first.append(("mask", blend_labels(photo, resize_mask(mask, size), self.palette)))
            shown |= set(np.unique(mask).tolist()) - {-1}
        rows = [Row("", first)]
        for array in self.segments.labels:
            level = array.removeprefix("labels").strip("_")
            for model in self.segments.axes.models:
                called = self.style.name(model.name)
                title = f"{called}\n{level} segments" if level else called
                tiles, labels = self._draw_slots(image, model, array, photo)
                rows.append(Row(title, tiles))
                shown |= labels
        classes = [] if self.first_colour else self.segments.store.record["classes"]
        keys = list_keys(classes, sorted(shown), self.palette) if classes else []
        return draw_sheet(rows, title=name, style=self.style, controls=self.controls, keys=keys)

    def _draw_slots(
        self, image: int, model: ModelAxes, array: str, photo: Pixels
    ) -> tuple[list[tuple[str, Pixels]], set[int]]:
        """Save a picture of every layer's labels; return them over the photo, with captions, and which there are."""
        tiles, found = [], set()
        labels = self.segments.patches(model.name, image, array=self.segments.labels[array].at(model.name))
        for layer, values in zip(model.layers, labels, strict=True):
            shown = _spread(values, model, photo.shape[:2]) + self.first_colour
            tiles.append((f"layer {layer}", blend_labels(photo, shown, self.palette)))
            found |= set(np.unique(shown).tolist()) - {-1}
            if values.max(initial=0) < MOST_INDEXED:
                whole = indexed_picture(_spread(values, model, self.photos.size(image)), self.palette)
                folder = self.folder / array / f"{model.name}-{layer}"
                whole.save(file_for_image(folder, self.photos.id(image), ".png"))
        return tiles, found

    def _draw_overview(self) -> None:
        sheets = [self._lay_out(image) for image in range(min(self.n_pictures, OVERVIEW_IMAGES))]
        if sheets:
            stack_canvases(sheets).save(self.style.file(self.folder, "overview"))


def _spread(labels: NDArray[np.int16], model: ModelAxes, size: tuple[int, ...]) -> NDArray[np.int16]:
    """Return (height, width): the label of the patch that each pixel lies in."""
    return np.asarray(spread_tokens(labels, model.grid, (size[0], size[1])), np.int16)


def _score_lines(scores: Scores) -> list[ScoreLine]:
    """Return a line per run's name and model."""
    return [
        ScoreLine(
            label=name,
            model=model,
            layers=layers,
            miou=scores.of(name, model, "miou"),
            shuffled=scores.of(name, model, "shuffled").mean(axis=0),
            chance=scores.of(name, model, "chance").mean(axis=0) if "chance" in scores.values else None,
            bound=float(scores.of(name, model, "bound")[0, 0]),
        )
        for name in scores.names
        for model, layers in scores.layers.items()
    ]
