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
from aligncut_cli.viz.canvas import INK, PAPER, Pixels
from aligncut_cli.viz.figures import add_legend, key_line, name_bottom, new_figure, save_figure
from aligncut_cli.viz.fonts import choose_font
from aligncut_cli.viz.style import COLOURS as LINES
from aligncut_cli.viz.style import FigureStyle

KINDS, OF_EACH = CATEGORIES[:3], 2
RULE = f"the first {OF_EACH} scenes whose only object is a {KINDS[0]}, a {KINDS[1]}, a {KINDS[2]}"
TEXT, GAP = 17, 4  # pixels
LABEL = 128  # pixels for the names on the left
STYLE = FigureStyle("png", width=180.0, dpi=120, font_size=8.0, names={})
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
            _write(draw, (GAP, top + SIZE // 2 - TEXT), model)
            before = model
        _write(draw, (GAP, top + SIZE // 2 + GAP), f"layer {layer}")
        for column, rgb in enumerate(grids):
            grid = Image.fromarray(rgb).resize((SIZE, SIZE), Image.Resampling.NEAREST)  # no colour is blended
            canvas.paste(grid, (LABEL + column * step, top))
        top += step
    return canvas


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str) -> None:
    font, drawable = choose_font(text, TEXT)
    draw.text(at, drawable, font=font, fill=INK, anchor="lm")


def plot_by_layer(found: Mapping[str, Any]) -> Figure:
    """Plot mIoU of figure and ground, and of the categories, by layer: spaces side by side, dotted with other masks."""
    models = list(found["figure"]["miou"][SHOWN])
    figure, axes = new_figure(2, len(models), style=STYLE, height=112.0, controls=(), sharex=True, sharey="row")
    for row, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        scores = found[measure]
        for axis, model in zip(row, models, strict=True):
            for run, colour in zip(SIDE_BY_SIDE, LINES, strict=False):
                axis.plot(scores["miou"][run][model], "o-", color=colour, markersize=2.5, linewidth=1.0)
            axis.plot(scores["other_masks"][model], ":", color="#777777", linewidth=1)
            axis.set_ylim(0, 1)
        row[0].set_ylabel(f"mIoU, {label}", fontsize=STYLE.small)
    for axis, model in zip(axes[0], models, strict=True):
        axis.set_title(model, fontsize=STYLE.font_size)
    further = [
        key_line("shuffled alignment" if run == "shuffled" else run, colour, marker="o")
        for run, colour in zip(SIDE_BY_SIDE, LINES, strict=False)
    ]
    further.append(key_line("other photos' masks", "#777777", ":"))
    name_bottom(axes, 2 * len(models), "layer", style=STYLE)
    add_legend(figure, style=STYLE, columns=len(further), further=further)
    return figure
