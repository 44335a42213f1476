"""The demo's picture, photos over the colours of three layers of each model, and its plot of scores by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from aligncut_cli.demo.findings import COLOURS, PICTURE, PLOT, SHOWN, SIDE_BY_SIDE, read_mask
from aligncut_cli.demo.scenes import CATEGORIES, SIZE
from aligncut_cli.store.kinds.tsne import Tsne
from aligncut_cli.store.read import open_store
from aligncut_cli.viz.figures import new_figure, save_figure
from aligncut_cli.viz.montage import GAP, PAPER, Pixels, colour_grid, write_line

KINDS, OF_EACH = CATEGORIES[:3], 2
RULE = f"the first {OF_EACH} scenes whose only object is a {KINDS[0]}, a {KINDS[1]}, a {KINDS[2]}"
TEXT = 17
LABEL = 128  # pixels for the names on the left
MEASURES = {"figure": "figure and ground", "classes": "eight categories and ground"}


def draw_pictures(folder: Path, found: Mapping[str, Any]) -> None:
    """Write picture.png and layers.png into the demo's folder."""
    store = Tsne(open_store(folder / COLOURS, "tsne"))
    identities = [str(name) for name in store.images()["id"]]
    images = choose_photos([np.unique(read_mask(folder, name)) for name in identities])
    drawn = [folder / "world" / "images" / f"{identities[k]}.png" for k in images]
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in drawn]
    rows = {}
    for model in store.axes.models:
        for layer in spread_layers(len(model.layers)):
            rgb = store.read_colours(model.name, slice(None), layers=layer)
            rows[model.name, model.layers[layer]] = [rgb[k].reshape(*model.grid, 3) for k in images]
    draw_columns(photos, rows).save(folder / PICTURE)
    save_figure(plot_by_layer(found), folder / PLOT)


def choose_photos(classes: Sequence[NDArray[np.integer]]) -> list[int]:
    """Choose photos by RULE from the classes (0 is background) that each scene's mask holds."""
    single = [int(found[-1]) - 1 if len(found) == 2 and found[0] == 0 else -1 for found in classes]
    return [
        image
        for kind in KINDS
        for image in [k for k, category in enumerate(single) if category == CATEGORIES.index(kind)][:OF_EACH]
    ]


def spread_layers(depth: int) -> list[int]:
    """Return the first, the middle and the last layer."""
    return sorted({0, depth // 2, depth - 1})


def draw_columns(photos: Sequence[Pixels], rows: Mapping[tuple[str, int], Sequence[Pixels]]) -> Image.Image:
    """Draw one column per photo: the photo, then its colours in every (model, layer)."""
    step = SIZE + GAP
    height = (1 + len(rows)) * step + 2 * GAP * len({model for model, _ in rows})
    canvas = Image.new("RGB", (LABEL + len(photos) * step, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, photo in enumerate(photos):
        canvas.paste(Image.fromarray(photo), (LABEL + column * step, 0))
    top, before = step, ""
    for (model, layer), grids in rows.items():
        if model != before:
            top += 2 * GAP
            write_line(draw, (GAP, top + SIZE // 2 - TEXT), model, TEXT, anchor="lm")
            before = model
        write_line(draw, (GAP, top + SIZE // 2 + GAP), f"layer {layer}", TEXT, anchor="lm")
        for column, rgb in enumerate(grids):
            canvas.paste(colour_grid(rgb, (SIZE, SIZE)), (LABEL + column * step, top))
        top += step
    return canvas


def plot_by_layer(found: Mapping[str, Any]) -> Figure:
    """Plot mIoU of figure and ground, and of the categories, by layer: spaces side by side, dotted with other masks."""
    models = list(found["figure"]["miou"][SHOWN])
    figure, axes = new_figure(2, len(models), width=7.2, height=4.2, controls=(), sharex=True, sharey="row")
    for row, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        scores = found[measure]
        for axis, model in zip(row, models, strict=True):
            for run in SIDE_BY_SIDE:
                name = "shuffled alignment" if run == "shuffled" else run
                axis.plot(scores["miou"][run][model], "o-", markersize=3, linewidth=1.2, label=name)
            axis.plot(scores["other_masks"][model], ":", color="#777777", linewidth=1, label="other photos' masks")
            axis.set_ylim(0, 1)
        row[0].set_ylabel(f"mIoU, {label}", fontsize=8)
    for axis, model in zip(axes[0], models, strict=True):
        axis.set_title(model, fontsize=9)
    for axis in axes[1]:
        axis.set_xlabel("layer", fontsize=8)
    axes[1][-1].legend(fontsize=6.5, frameon=False)
    return figure
