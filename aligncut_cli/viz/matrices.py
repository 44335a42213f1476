"""Draws slot-by-slot matrices side by side in one colour scale (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.viz.figures import add_scale, list_axes, new_figure, save_figure
from aligncut_cli.viz.fonts import widest_text, wrap_text
from aligncut_cli.viz.style import FigureStyle

PANEL, SCALE = 48.0, 18.0
"""Least width of a matrix, and that of the scale beside all of them, mm."""


def draw_matrices(
    path: Path,
    matrices: Mapping[str, NDArray[np.float64]],
    slots: Sequence[str],
    *,
    low: float,
    label: str,
    style: FigureStyle,
    controls: Sequence[str],
) -> None:
    """Write a figure with one (slots, slots) matrix per title; blank where slots cannot be compared.

    slots    : MODEL:LAYER of every row
    low      : end of the scale, whose other end is 1: -1 in two colours, 0 in one
    label    : what a cell is
    controls : said in red
    """
    labels = [style.slot(slot) for slot in slots]
    names = widest_text(labels, style.small)
    columns = style.columns(len(matrices), least=PANEL + names, beside=SCALE)
    rows = ceil(len(matrices) / columns)
    side = (style.width - SCALE) / columns - names - 2
    wraps = {title: wrap_text(title, side, style.font_size) for title in matrices}
    height = rows * (side + names + (1.5 + max(map(len, wraps.values()))) * style.line)
    figure, axes = new_figure(rows, columns, style=style, height=height, controls=controls)
    fit = max(1, int(side / (0.9 * style.line)))
    step = max(1, ceil(len(labels) / fit))
    ticks = list(range(0, len(labels), step))
    shown = list_axes(axes, len(matrices))
    colours = "RdBu_r" if low < 0 else "viridis"
    for axis, (title, matrix) in zip(shown, matrices.items(), strict=True):
        image = axis.imshow(matrix, vmin=low, vmax=1, cmap=colours, interpolation="nearest", aspect="auto")
        axis.set_title("\n".join(wraps[title]), fontsize=style.font_size)
        axis.set_xticks(ticks, [labels[i] for i in ticks], rotation=90, fontsize=style.small)
        axis.set_yticks(ticks, [labels[i] for i in ticks], fontsize=style.small)
    add_scale(figure, image, shown, label, style=style)
    save_figure(figure, path)
