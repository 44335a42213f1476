"""Plots of concepts and of activations in the brain's space (Fig. 6 to 8, 16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from aligncut_cli.viz.canvas import Pixels
from aligncut_cli.viz.figures import add_legend, add_scale, key_line, list_axes, name_bottom, new_figure
from aligncut_cli.viz.fonts import widest_text
from aligncut_cli.viz.style import COLOURS, FigureStyle
from aligncut_cli.viz.transition_plots import cover, draw_circle, name_map_axes

Floats = NDArray[np.float64]
MOST_POINTS = 3000
OUTSIDE = 0.005
"""Share of voxels at each end that may lie outside a scatter plot, so that a few do not press all others flat."""


def mark_patch(photo: Pixels, row: int, column: int, *, cell: int, around: int = 1) -> Pixels:
    """Cut a patch out with `around` patches on each side, white beyond the photo, and frame the patch in red.

    photo : (rows x cell, columns x cell, 3)
    """
    margin = around * cell
    padded = np.pad(photo, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    top, left = row * cell, column * cell
    size = cell + 2 * margin
    cut = padded[top : top + size, left : left + size].copy()
    low, high = margin - 1, margin + cell
    colour = (220, 40, 40)
    cut[low, low : high + 1] = cut[high, low : high + 1] = colour
    cut[low : high + 1, low] = cut[low : high + 1, high] = colour
    return cut


def plot_concept_rois(
    names: Sequence[str],
    mean: Floats,
    deviation: Floats,
    p: Floats | None,
    few: NDArray[np.bool_],
    *,
    style: FigureStyle,
    controls: Sequence[str],
) -> Figure:
    """Draw mean and deviation of each concept's activation in each ROI as two heat maps; * where p < 0.05.

    mean, deviation, p : (concept, roi)
    few                : (concept,) which rest on few tokens; they are hatched and in brackets
    """
    cell = 1.05 * style.line
    columns = style.columns(2, least=max(60.0, cell * len(names) + 26))
    rows = 2 // columns
    height = rows * (cell * len(mean) + widest_text(names, style.font_size) + 3 * style.line) + style.line
    figure, axes = new_figure(rows, columns, style=style, height=max(height, 35.0 * rows), controls=controls)
    largest = float(np.nanmax(np.abs(mean))) if np.isfinite(mean).any() else 1.0
    styles: list[tuple[str, Floats, dict[str, Any]]] = [
        ("mean activation", mean, {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}),
        ("standard deviation", deviation, {"cmap": "viridis", "vmin": 0}),
    ]
    every = list_axes(axes, 2)
    for axis, (title, values, look) in zip(every, styles, strict=True):
        image = axis.imshow(values, aspect="auto", interpolation="nearest", **look)
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(mean)), [f"({index})" if few[index] else str(index) for index in range(len(mean))])
        for row in np.flatnonzero(few):
            axis.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor="#888888", hatch="///", linewidth=0)
        axis.set_ylabel("concept", fontsize=style.font_size)
        add_scale(figure, image, [axis], f"{title}\n(unit of the responses)", style=style)
    if p is not None:
        for (row, column), value in np.ndenumerate(p):
            if value < 0.05:
                every[0].text(column, row, "*", ha="center", va="center", fontsize=style.font_size)
    return figure


def plot_concept_map(
    cloud: NDArray[Any],
    centres: NDArray[np.floating],
    radius: float,
    few: NDArray[np.bool_],
    *,
    style: FigureStyle,
    controls: Sequence[str],
) -> Figure:
    """Draw the concepts as numbered circles on the map, its first two dimensions.

    cloud   : (n, dim) nodes
    centres : (concept, dim)
    few     : (concept,) which rest on few tokens; they are dashed and in brackets
    """
    figure, axes = new_figure(1, 1, style=style, height=0.8 * style.width, controls=controls)
    axis = axes[0][0]
    axis.scatter(*cloud[:, :2].T, s=1, color="#c4c4c4", linewidths=0, rasterized=True)
    for index, place in enumerate(centres[:, :2]):
        round_of, number = divmod(index, len(COLOURS))
        red, green, blue = (0.6**round_of * part for part in to_rgb(COLOURS[number]))  # darker each time
        colour = to_hex((red, green, blue))
        name = f"({index})" if few[index] else str(index)
        circle = draw_circle(place, radius, colour)
        circle.set_linestyle("--" if few[index] else "-")
        axis.add_patch(circle)
        cover(axis, np.array([place - radius, place + radius]))
        axis.text(*place, name, ha="center", va="center", fontsize=style.font_size, color=colour, weight="bold")
    dims = centres.shape[1]
    title = "concepts" if dims == 2 else f"concepts: the first two of {dims} dimensions"
    axis.set_title(title, fontsize=style.font_size)
    name_map_axes(axis, style)
    return figure


def plot_magnitude_and_deviation(
    mean: Floats, deviation: Floats, rho: Floats, *, style: FigureStyle, controls: Sequence[str]
) -> Figure:
    """Draw |mean| against deviation of every voxel, a panel per concept, with the rank correlation.

    Both axes end where all but a few voxels of all concepts lie (OUTSIDE).

    mean, deviation : (concept, voxel)
    """
    columns = style.columns(min(5, len(mean)), least=26.0)
    rows = ceil(len(mean) / columns)
    figure, axes = new_figure(
        rows, columns, style=style, height=rows * 28.0 + 2 * style.line, controls=controls, sharex=True, sharey=True
    )
    step = max(1, mean.shape[1] // MOST_POINTS)
    for index, axis in enumerate(list_axes(axes, len(mean))):
        look = {"s": 2, "color": COLOURS[0], "linewidths": 0, "alpha": 0.4, "rasterized": True}
        axis.scatter(np.abs(mean[index, ::step]), deviation[index, ::step], **look)
        text = "no tokens" if np.isnan(rho[index]) else f"rho {rho[index]:.2f}"
        axis.set_title(f"concept {index}: {text}", fontsize=style.small)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axes[0][0].set_xlim(0, _robust_end(np.abs(mean)))
    axes[0][0].set_ylim(_robust_start(deviation), _robust_end(deviation))
    figure.supxlabel("|mean activation| of a voxel (unit of the responses)", fontsize=style.font_size)
    figure.supylabel("standard deviation (same unit)", fontsize=style.font_size)
    return figure


def _robust_end(values: Floats) -> float:
    """Return a little more than what all but the highest few reach; 1 where there is nothing."""
    finite = values[np.isfinite(values)]
    return 1.05 * float(np.quantile(finite, 1 - OUTSIDE)) or 1.0 if len(finite) else 1.0


def _robust_start(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return 0.95 * float(np.quantile(finite, OUTSIDE)) if len(finite) else 0.0


def plot_activations(
    rois: Sequence[str],
    layers: Mapping[str, Sequence[int]],
    mean: Mapping[str, Floats],
    error: Mapping[str, Floats],
    *,
    style: FigureStyle,
    controls: Sequence[str],
) -> Figure:
    """Draw foreground (solid) and background (dashed) activations over layers, a panel per ROI, a colour per model.

    mean, error : by model (layer, foreground | background | difference, roi)
    """
    columns = style.columns(min(4, len(rois)), least=38.0)
    rows = ceil(len(rois) / columns)
    keys = 5 if style.width > 120 else 3
    below = style.line * (2 + ceil((len(layers) + 2) / keys))
    figure, axes = new_figure(
        rows, columns, style=style, height=rows * 32.0 + below, controls=controls, sharex=True, sharey=True
    )
    every = list_axes(axes, len(rois))
    for index, axis in enumerate(every):
        for number, (model, at) in enumerate(layers.items()):
            colour = COLOURS[number % len(COLOURS)]
            for side, dashes in ((0, "-"), (1, "--")):
                middle, spread = mean[model][:, side, index], np.nan_to_num(error[model][:, side, index])
                axis.plot(at, middle, dashes, color=colour, marker="o", markersize=2, linewidth=1.0)
                axis.fill_between(at, middle - spread, middle + spread, color=colour, alpha=0.15, linewidth=0)
        axis.axhline(0, color="#bbbbbb", linewidth=0.6, zorder=0)
        axis.set_title(rois[index], fontsize=style.font_size)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    further = [key_line(style.name(model), COLOURS[number % len(COLOURS)]) for number, model in enumerate(layers)]
    further += [key_line("foreground", "#777777"), key_line("background", "#777777", "--")]
    add_legend(figure, style=style, columns=keys, further=further)
    name_bottom(axes, len(rois), "layer", style=style)
    figure.supylabel("mean activation (unit of the responses)", fontsize=style.font_size)
    return figure


def plot_difference(
    rois: Sequence[str],
    slots: Sequence[str],
    difference: Floats,
    error: Floats,
    *,
    style: FigureStyle,
    controls: Sequence[str],
) -> Figure:
    """Draw foreground minus background as a heat map of slots by ROIs; dots where it exceeds two standard errors.

    slots             : MODEL:LAYER
    difference, error : (slot, roi)
    """
    labels = [style.slot(slot) for slot in slots]
    height = 1.05 * style.line * len(slots) + widest_text(rois, style.font_size) + 3 * style.line
    figure, axes = new_figure(1, 1, style=style, height=max(height, 40.0), controls=controls)
    axis = axes[0][0]
    largest = float(np.nanmax(np.abs(difference))) if np.isfinite(difference).any() else 1.0
    image = axis.imshow(difference, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(difference):
        if abs(value) > 2 * error[row, column]:
            axis.plot(column, row, ".", color="black", markersize=2)
    axis.set_xticks(range(len(rois)), rois, rotation=90)
    axis.set_yticks(range(len(slots)), labels)
    add_scale(figure, image, [axis], "foreground minus background\n(unit of the responses)", style=style)
    return figure


WARM, COLD = (213, 94, 0), (0, 114, 178)
"""Of what is similar, and of what is opposite."""


def heat_scale() -> Pixels:
    """Return the colours of `heat_over_photo` from -1 to 1 over mid-grey, (1, 101, 3)."""
    return heat_over_photo(np.full((1, 101, 3), 170, np.uint8), np.linspace(-1, 1, 101)[None])


def heat_over_photo(photo: Pixels, heat: Floats) -> Pixels:
    """Lay a similarity map over a photo in grey; -1 is blue, 0 leaves the photo, 1 is orange.

    photo : (h, w, 3)
    heat  : (h, w) in -1 .. 1
    """
    grey = photo.mean(axis=2, keepdims=True)
    warm = np.array(WARM) * (heat > 0)[..., None] + np.array(COLD) * (heat <= 0)[..., None]
    share = 0.85 * np.clip(np.abs(heat), 0, 1)[..., None]
    mixed: Pixels = np.round(share * warm + (1 - share) * grey).astype(np.uint8)
    return mixed
