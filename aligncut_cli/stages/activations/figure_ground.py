"""Foreground against background: patches pooled model by model, image by image, then tables and plots of all slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console, format_table
from aligncut_cli.controls import title_with_controls
from aligncut_cli.masks import MaskSet
from aligncut_cli.maths.activations import ROWS, FigureGroundActivation, average_over_roi
from aligncut_cli.maths.finite import finite_or_none
from aligncut_cli.maths.grid import weigh_tokens_by_class
from aligncut_cli.stages.activations.columns import DIFFERENCE, HEADER, PLOTS, TABLE
from aligncut_cli.stages.patches import load_patches
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.regions import place_regions
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.nodes import Block, ModelAxes, NodeAxes, image_slices
from aligncut_cli.store.phases import load_ahead
from aligncut_cli.viz.concept_plots import plot_activations, plot_difference
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.style import FigureStyle

Floats = NDArray[np.float64]


class FigureGround:
    """Pools models and keeps what was found in a folder, under the model's number.

    rois : (roi, voxel)
    """

    def __init__(
        self,
        space: FeatureSpace,
        alignment: Alignment,
        rois: NDArray[np.bool_],
        masks: MaskSet,
        photos: Photos,
        folder: Path,
        console: Console,
    ) -> None:
        self.space, self.alignment, self.rois, self.masks = space, alignment, rois, masks
        self.photos, self.folder, self.console = photos, folder, console

    def pool(self, index: int, model: ModelAxes) -> None:
        """Pool foreground and background of one model's patches, image by image."""
        slots = [slot for slot in self.space.axes.slots if slot.model == model.name]
        readout = average_over_roi(self.alignment.read_readout(), self.rois)
        weights = [self.space.weight(slot).cpu().numpy().astype(np.float64) for slot in slots]
        result = FigureGroundActivation(np.stack([weight @ readout for weight in weights]))
        blocks = list(image_slices(model.n_images, self.space.images_per_read()[model.name]))

        def load(images: slice) -> list[NDArray[np.float16]]:
            return [load_patches(self.space, Block(slot, images)) for slot in slots]

        with self.console.progress(model.name, model.n_images, unit="images") as progress:
            for images, rows in load_ahead(blocks, load):
                for at, image in enumerate(range(images.start, images.stop)):
                    mask = self.masks.read(self.photos.id(image), size=self.photos.size(image))
                    figure = np.where(mask > 0, 1, mask).astype(np.int16)
                    patches = np.stack([slot_rows[at] for slot_rows in rows])
                    result.add(patches, weigh_tokens_by_class(figure, model.grid, n_classes=2))
                    progress.advance()
        found = result.finish()
        np.savez(self._file(index), mean=found.mean, error=found.error, weights=found.weights)

    def load(self, index: int) -> tuple[Floats, Floats]:
        """Return mean and standard error of one model, both (layer, side, roi); the sides are ROWS."""
        with np.load(self._file(index)) as saved:
            return saved["mean"], saved["error"]

    def _file(self, index: int) -> Path:
        return self.folder / f"{index}.npz"


@dataclass(frozen=True)
class Activations:
    """What was found of all models.

    rois        : names, the first of all voxels
    mean, error : by model (layer, side, roi); the sides are ROWS
    """

    axes: NodeAxes
    rois: list[str]
    mean: dict[str, Floats]
    error: dict[str, Floats]

    @classmethod
    def of(cls, pooled: FigureGround, rois: list[str]) -> Activations:
        """Collect what was pooled model by model."""
        axes = pooled.space.axes
        found = {name: pooled.load(index) for index, name in enumerate(axes.names)}
        return cls(axes, rois, {n: mean for n, (mean, _) in found.items()}, {n: e for n, (_, e) in found.items()})

    @property
    def slots(self) -> list[str]:
        """Return the names of all slots."""
        return [str(slot) for slot in self.axes.slots]

    def difference(self) -> tuple[Floats, Floats]:
        """Return foreground minus background and its standard error, both (slot, roi)."""
        side = ROWS.index(DIFFERENCE)
        mean, error = (
            np.concatenate([values[name][:, side] for name in self.axes.names]) for values in (self.mean, self.error)
        )
        return mean, error

    def summary(self) -> dict[str, Any]:
        """Return where the difference is largest."""
        difference, _ = self.difference()
        if not np.isfinite(difference).any():
            return {"largest_difference": None}
        slot, roi = np.unravel_index(int(np.nanargmax(np.abs(difference))), difference.shape)
        return {
            "largest_difference": float(difference[slot, roi]),
            "its_slot": self.slots[int(slot)],
            "its_roi": self.rois[int(roi)],
        }

    def write(self, folder: Path, *, style: FigureStyle, controls: Sequence[str]) -> None:
        """Write the table, and plots by area, early ones first, and by slot."""
        rows: list[list[object]] = []
        for model in self.axes.models:
            for at, layer in enumerate(model.layers):
                for roi, name in enumerate(self.rois):
                    pairs = zip(self.mean[model.name][at, :, roi], self.error[model.name][at, :, roi], strict=True)
                    rows.append([model.name, layer, name, *(float(value) for pair in pairs for value in pair)])
        write_csv(folder / TABLE, HEADER, rows, controls=controls)
        layers = {model.name: list(model.layers) for model in self.axes.models}
        places = place_regions(self.rois)
        rois = [self.rois[at] for at in places]
        both = [{name: values[..., places] for name, values in side.items()} for side in (self.mean, self.error)]
        difference = [values[:, places] for values in self.difference()]
        figures = (
            plot_activations(rois, layers, *both, style=style, controls=controls),
            plot_difference(rois, self.slots, *difference, style=style, controls=controls),
        )
        for name, figure in zip(PLOTS, figures, strict=True):
            save_figure(figure, style.file(folder, name))

    def as_text(self, *, controls: Sequence[str]) -> str:
        """Return the table of the difference of every slot over all voxels."""
        columns = [values[:, 0].tolist() for values in self.difference()]
        rows = [[slot, *map(finite_or_none, pair)] for slot, *pair in zip(self.slots, *columns, strict=True)]
        title = title_with_controls("foreground minus background, mean over all voxels", controls)
        return format_table(["slot", "difference", "error"], rows, title=title)
