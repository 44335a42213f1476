"""Tables, plots, indexed label pictures and overlays of a segments store, for `segment --figures`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.masks import MaskSet
from aligncut_cli.maths.grid import resize_mask, spread_tokens
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.segment.tables import list_classes, list_runs, read_scores, tabulate
from aligncut_cli.store.folder import file_for_image, write_csv
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.montage import stack_pictures
from aligncut_cli.viz.score_plots import ScoreLine, plot_scores
from aligncut_cli.viz.sheet import Row, blend_labels, draw_sheet, indexed_picture

PROCESS_BYTES = 300_000_000
TILE = 112
OVERVIEW_IMAGES = 6
MOST_INDEXED = 255


class SegmentFigures:
    """Scores as CSV and plot; for some images every slot's labels as a picture and over the photo."""

    def __init__(self, work: Work, source: Store, masks: MaskSet | None, n_pictures: int, console: Console) -> None:
        self.work, self.source, self.masks, self.console = work, source, masks, console
        self.axes = source.axes
        self.photos = Photos(source.images())
        self.n_pictures = min(n_pictures, len(self.photos.images["id"]))
        self.controls = collect_controls(source)
        self.first_colour = int(bool(source.record["params"]["clusters"]))  # no cluster is the background

    def run(self) -> Outcome:
        """Write what is not there yet."""
        plan = Plan(
            phases={"scores": 1, "pictures": self.n_pictures, "overview": 1},
            memory=PROCESS_BYTES + 40 * max(h * w for h, w in map(self.photos.size, range(max(1, self.n_pictures)))),
            disk=self.n_pictures * len(self.axes.slots) * 40_000,
            notes={"images": self.n_pictures},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        self.work.staging.mkdir(exist_ok=True)
        if not self.work.done("scores"):
            if self.source.has("scores"):
                self._write_scores()
            self.work.mark("scores")
        with self.console.progress("figures", self.n_pictures, unit="images") as progress:
            for image in self.work.pending("pictures"):
                self._draw(image)
                self.work.mark("pictures", image)
                progress.advance()
        if not self.work.done("overview"):
            self._draw_overview()
            self.work.mark("overview")
        if self.photos.missing:
            self.console.warn(f"{len(self.photos.missing)} photos were not found where they were")
        self.console.note(f"tables and pictures are in {self.work.output}")
        return self.work.finish(models=self.axes.names, summary={"images": self.n_pictures}, controls=self.controls)

    def _write_scores(self) -> None:
        scores = read_scores(self.source)
        folder = self.work.staging
        for name, table in (("scores", tabulate), ("runs", list_runs), ("classes", list_classes)):
            header, rows = table(scores)
            write_csv(folder / f"{name}.csv", header, rows, controls=self.controls)
        lines = []
        for name in scores.names:
            for model, layers in scores.layers.items():
                chance = scores.of(name, model, "chance").mean(axis=0) if "chance" in scores.values else None
                lines.append(
                    ScoreLine(
                        label=name,
                        model=model,
                        layers=layers,
                        miou=scores.of(name, model, "miou"),
                        shuffled=scores.of(name, model, "shuffled").mean(axis=0),
                        chance=chance,
                        bound=float(scores.of(name, model, "bound")[0, 0]),
                    )
                )
        title = f"{scores.method}, {len(scores.classes)} classes, {len(self.photos.images['id'])} images"
        save_figure(plot_scores(lines, title=title, controls=self.controls), folder / "scores.png")

    def _draw(self, image: int) -> None:
        """Draw one image: an indexed picture per slot and level, and all of them over the photo."""
        name = str(self.photos.images["id"][image])
        size = self.photos.tile_size(image, TILE)
        photo = self.photos.read(image, size)
        first = [("photo", photo)]
        if self.masks is not None:
            mask = self.masks.read(name, size=self.photos.size(image))
            first.append(("mask", blend_labels(photo, resize_mask(mask, size))))
        rows = [Row("", first)]
        arrays = [array for array in self.source.names(self.axes.names[0]) if array.startswith("labels")]
        for array in sorted(arrays, key=lambda text: (len(text) > len("labels"), -int(text[7:] or 0))):
            level = array.removeprefix("labels").strip("_")
            for model in self.axes.models:
                labels = self.source.read(f"{model.name}/{array}", (slice(None), image))[:, int(model.class_token) :]
                tiles = []
                for layer, values in zip(model.layers, labels, strict=True):
                    shown = self._spread(values, model.grid, size) + self.first_colour
                    tiles.append((f"layer {layer}", blend_labels(photo, shown)))
                    if values.max(initial=0) < MOST_INDEXED:
                        whole = indexed_picture(self._spread(values, model.grid, self.photos.size(image)))
                        folder = self.work.staging / array / f"{model.name}-{layer}"
                        whole.save(file_for_image(folder, name, ".png"))
                rows.append(Row(f"{model.name}\n{level} segments" if level else model.name, tiles))
        sheet = draw_sheet(rows, title=name, controls=self.controls)
        sheet.save(file_for_image(self.work.staging / "overlays", name, ".png"))

    def _spread(self, labels: NDArray[np.int16], grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int16]:
        return np.asarray(spread_tokens(labels, grid, size), np.int16)

    def _draw_overview(self) -> None:
        from PIL import Image

        names = [str(name) for name in self.photos.images["id"][: min(self.n_pictures, OVERVIEW_IMAGES)]]
        if names:
            folder = self.work.staging / "overlays"
            pictures = [Image.open(file_for_image(folder, name, ".png")) for name in names]
            stack_pictures(pictures).save(self.work.staging / "overview.png")
