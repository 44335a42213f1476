"""The computation of `activations`: pooled figure and ground model by model, and similarity maps token by token.

Memory is bounded by construction: three blocks of images at a time, one mask, and sums per slot, channel and ROI.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.controls import title_with_controls
from aligncut_cli.errors import BadInput
from aligncut_cli.masks import MaskSet
from aligncut_cli.maths.activations import FigureGroundActivation, average_over_roi, compare_to_reference
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.maths.finite import all_finite
from aligncut_cli.maths.grid import spread_tokens, weigh_tokens_by_class
from aligncut_cli.params import ActivationsParams, RunOptions
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.stages.token_places import TokenPlace, parse_token
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.nodes import Block, image_slices, require_tokens
from aligncut_cli.store.read import Store, collect_controls, read_ahead
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.concept_plots import heat_over_photo, plot_activations, plot_difference
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.sheet import Row, draw_sheet

PROCESS_BYTES = 700_000_000
TILE = 112
TILES_PER_ROW = 8


class ActivationsPhases:
    """One run of the stage: models with masks, and tokens to compare to."""

    def __init__(
        self,
        work: Work,
        source: Store,
        alignment: Store,
        masks: MaskSet | None,
        params: ActivationsParams,
        options: RunOptions,
        console: Console,
    ) -> None:
        self.work, self.source, self.alignment, self.masks = work, source, alignment, masks
        self.params, self.console = params, console
        self.space = FeatureSpace.universal(source, alignment, resolve_device(options.device))
        self.axes = source.axes
        self.photos = Photos(source.images())
        self.ids = [str(name) for name in self.photos.images["id"]]
        self.names, self.rois = Alignment(alignment).stack_rois(with_all=True)
        self.controls = collect_controls(source, alignment)

    def run(self) -> Outcome:
        """Check, plan, and compute every phase that is not done."""
        require_tokens(self.axes, self.source.path)
        self.space.require()
        if self.masks is not None:
            self.masks.require(self.ids)
        self.slot = None if self.params.slot is None else self.axes.slot(self.params.slot)
        self.places: list[TokenPlace] = []
        if self.slot is not None:
            self.places = [parse_token(text, self.ids, self.axes[self.slot.model]) for text in self.params.token]
        models = self.axes.names if self.masks is not None else []
        per_block = self.space.images_per_read()
        block = max(per_block[m.name] * m.n_tokens * len(m.layers) * self.space.n_channels_stored(m.name)
                    for m in self.axes.models)  # fmt: skip
        universal, voxels = self.alignment.array("readout/weight").shape
        plan = Plan(
            phases={"masks": len(models), "compare": len(self.places), "tables": 1},
            memory=PROCESS_BYTES + 3 * 2 * block + 40 * block // max(per_block.values()) + 12 * universal * voxels,
            disk=len(self.places) * len(self.ids) * 4 * 400 + 1_000_000,
            notes={"images": len(self.ids), "ROIs": len(self.names)},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        for folder in (self.work.staging, self.work.scratch):
            folder.mkdir(exist_ok=True)
        for index in self.work.pending("masks"):
            self._pool(index)
            self.work.mark("masks", index)
        for index in self.work.pending("compare"):
            self._compare(index)
            self.work.mark("compare", index)
        summary: dict[str, Any] = {"images": len(self.ids), "rois": len(self.names)}
        if self.masks is not None:
            summary |= self._write_activations()
        self.work.mark("tables")
        if self.photos.missing:
            self.console.warn(f"{len(self.photos.missing)} photos were not found where they were")
        return self.work.finish(models=self.axes.names, summary=summary, controls=self.controls)

    # foreground and background

    def _pool(self, index: int) -> None:
        """Pool foreground and background of one model's tokens, image by image."""
        model = self.axes.models[index]
        readout = average_over_roi(Alignment(self.alignment).read_readout(), self.rois)
        slots = [slot for slot in self.axes.slots if slot.model == model.name]
        weights = [self.space.weight(slot).cpu().numpy().astype(np.float64) for slot in slots]
        result = FigureGroundActivation(np.stack([weight @ readout for weight in weights]))
        blocks = list(image_slices(model.n_images, self.space.images_per_read()[model.name]))

        def load(images: slice) -> NDArray[np.float16]:
            rows = self.source.read(f"{model.name}/tokens", (slice(None), images))
            if not all_finite(rows):
                raise BadInput(f"{self.source.path}: features of {model.name} are not finite", do="Extract again.")
            return rows[:, :, int(model.class_token) :]

        with self.console.progress(model.name, model.n_images, unit="images") as progress:
            for images, rows in zip(blocks, read_ahead(lambda i=i: load(i) for i in blocks), strict=True):
                for image in range(images.start, images.stop):
                    mask = self._require_masks().read(self.ids[image], size=self.photos.size(image))
                    figure = np.where(mask > 0, 1, mask).astype(np.int16)
                    result.add(rows[:, image - images.start], weigh_tokens_by_class(figure, model.grid, n_classes=2))
                    progress.advance()
        found = result.finish()
        np.savez(self.work.scratch / f"{index}.npz", mean=found.mean, error=found.error, weights=found.weights)

    def _require_masks(self) -> MaskSet:
        if self.masks is None:
            raise RuntimeError("there are no masks")
        return self.masks

    def _write_activations(self) -> dict[str, Any]:
        mean: dict[str, NDArray[np.float64]] = {}
        error: dict[str, NDArray[np.float64]] = {}
        for index, model in enumerate(self.axes.models):
            with np.load(self.work.scratch / f"{index}.npz") as saved:
                mean[model.name], error[model.name] = saved["mean"], saved["error"]
        rows: list[list[object]] = []
        for model in self.axes.models:
            for at, layer in enumerate(model.layers):
                for roi, name in enumerate(self.names):
                    pairs = zip(mean[model.name][at, :, roi], error[model.name][at, :, roi], strict=True)
                    rows.append([model.name, layer, name, *(float(value) for pair in pairs for value in pair)])
        header = ["model", "layer", "roi"]
        header += [text for name in ("foreground", "background", "difference") for text in (name, f"{name} error")]
        folder = self.work.staging
        write_csv(folder / "activations.csv", header, rows, controls=self.controls)
        layers = {model.name: list(model.layers) for model in self.axes.models}
        figure = plot_activations(self.names, layers, mean, error, controls=self.controls)
        save_figure(figure, folder / "activations.png")
        difference, spread = (np.concatenate([values[model][:, 2] for model in layers]) for values in (mean, error))
        slots = [str(slot) for slot in self.axes.slots]
        figure = plot_difference(self.names, slots, difference, spread, controls=self.controls)
        save_figure(figure, folder / "difference.png")
        title = title_with_controls("foreground minus background, mean over all voxels", self.controls)
        table = [
            [slot, _number(float(d[0])), _number(float(e[0]))]
            for slot, d, e in zip(slots, difference, spread, strict=True)
        ]
        self.console.table(["slot", "difference", "error"], table, title=title)
        if not np.isfinite(difference).any():
            return {"largest_difference": None}
        best = np.unravel_index(int(np.nanargmax(np.abs(difference))), difference.shape)
        return {
            "largest_difference": float(difference[best]),
            "its_slot": slots[int(best[0])],
            "its_roi": self.names[int(best[1])],
        }

    # similarity to one token

    def _compare(self, index: int) -> None:
        """Compare every patch of the slot's images to one, and draw the first images."""
        if self.slot is None:
            return
        slot, place = self.slot, self.places[index]
        model = self.axes[slot.model]
        gram = None
        if self.params.space == "brain":
            beta = Alignment(self.alignment).read_readout().astype(np.float64)
            gram = beta @ beta.T
        one = self.space.load(Block(slot, slice(place.image, place.image + 1)))[[place.token(model)]]
        reference = self.space.map_rows(one, slot).cpu().numpy()[0]
        name = re.sub(r"[^\w.,-]+", "_", self.params.token[index])
        blocks = [Block(slot, part) for part in image_slices(model.n_images, self.space.images_per_read()[model.name])]
        grid = (model.n_images, *model.grid)
        path = self.work.staging / f"similarity-{name}.npy"
        similar = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=grid)
        with self.console.progress(f"compare {name}", model.n_images, unit="images") as progress:
            for block, rows in zip(blocks, read_ahead(lambda b=b: self.space.load(b) for b in blocks), strict=True):
                patches = rows.reshape(-1, model.n_tokens, rows.shape[1])[:, int(model.class_token) :]
                mapped = self.space.map_rows(patches.reshape(-1, rows.shape[1]), slot).cpu().numpy()
                values = compare_to_reference(mapped, reference, readout_gram=gram)
                similar[block.images] = values.reshape(-1, *model.grid)
                progress.advance(block.images.stop - block.images.start)
        similar.flush()
        table = [
            [self.params.token[index], str(slot), self.ids[image], float(part.mean()), float(part.max())]
            for image, part in enumerate(similar)
        ]
        header = ["token", "slot", "image", "mean similarity", "highest similarity"]
        write_csv(self.work.staging / f"similarity-{name}.csv", header, table, controls=self.controls)
        self._draw_similarity(f"similarity-{name}", similar, place, self.params.token[index])

    def _draw_similarity(self, name: str, similar: NDArray[np.float32], place: TokenPlace, text: str) -> None:
        grid = similar.shape[1:]
        others = [image for image in range(len(similar)) if image != place.image][: self.params.pictures]
        tiles = []
        for image in [place.image, *others]:
            size = self.photos.tile_size(image, TILE)
            photo = self.photos.read(image, size)
            heat = np.asarray(spread_tokens(similar[image].ravel(), grid, size), np.float64)
            tile = heat_over_photo(photo, heat)
            if image == place.image:
                tile = _frame(tile, grid, place)
                tiles.append(("the token", _frame(photo, grid, place)))
            tiles.append((self.ids[image][-24:], tile))
        rows = [Row("", tiles[start : start + TILES_PER_ROW]) for start in range(0, len(tiles), TILES_PER_ROW)]
        where = "the brain's space" if self.params.space == "brain" else "the universal space"
        title = f"cosine similarity to {text} at {self.slot}, in {where}: red 1, blue -1"
        draw_sheet(rows, title=title, controls=self.controls).save(self.work.staging / f"{name}.png")


def _frame(tile: NDArray[np.uint8], grid: tuple[int, ...], place: TokenPlace) -> NDArray[np.uint8]:
    """Frame one patch in yellow."""

    def scale(at: int, count: int, pixels: int) -> int:
        return min(round(at * pixels / count), pixels - 1)

    top, bottom = (scale(place.row + i, grid[0], tile.shape[0]) for i in (0, 1))
    left, right = (scale(place.column + i, grid[1], tile.shape[1]) for i in (0, 1))
    framed = tile.copy()
    framed[[top, bottom], left : right + 1] = framed[top : bottom + 1, [left, right]] = (255, 220, 0)
    return framed


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
