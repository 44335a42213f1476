"""Plots of concepts and of activations in the brain's space (Fig. 6 to 8, 16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from aligncut_cli.viz.figures import COLOURS, new_figure
from aligncut_cli.viz.montage import Pixels

Floats = NDArray[np.float64]
MOST_POINTS = 3000


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
    controls: Sequence[str],
) -> Figure:
    """Draw mean and deviation of each concept's activation in each ROI as two heat maps; * where p < 0.05.

    mean, deviation, p : (concept, roi)
    few                : (concept,) which rest on few tokens; they are hatched and in brackets
    """
    width = 2.5 + 0.42 * len(names)
    figure, axes = new_figure(1, 2, width=2 * width, height=1.6 + 0.28 * len(mean), controls=controls)
    largest = float(np.nanmax(np.abs(mean))) if np.isfinite(mean).any() else 1.0
    styles: list[tuple[str, Floats, dict[str, Any]]] = [
        ("mean activation", mean, {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}),
        ("standard deviation", deviation, {"cmap": "viridis", "vmin": 0}),
    ]
    for axis, (title, values, style) in zip(axes[0], styles, strict=True):
        image = axis.imshow(values, aspect="auto", interpolation="nearest", **style)
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(mean)), [f"({index})" if few[index] else str(index) for index in range(len(mean))])
        for row in np.flatnonzero(few):
            axis.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor="#888888", hatch="///", linewidth=0)
        axis.set_title(title, fontsize=10)
        figure.colorbar(image, ax=axis, shrink=0.8)
    if p is not None:
        for (row, column), value in np.ndenumerate(p):
            if value < 0.05:
                axes[0][0].text(column, row, "*", ha="center", va="center", fontsize=9)
    axes[0][0].set_ylabel("concept", fontsize=9)
    return figure


def plot_concept_map(
    cloud: NDArray[Any],
    centres: NDArray[np.floating],
    radius: float,
    few: NDArray[np.bool_],
    *,
    controls: Sequence[str],
) -> Figure:
    """Draw the concepts as numbered circles on the map, its first two dimensions.

    cloud   : (n, dim) nodes
    centres : (concept, dim)
    few     : (concept,) which rest on few tokens; they are dashed and in brackets
    """
    figure, axes = new_figure(1, 1, width=6, height=6, controls=controls)
    axis = axes[0][0]
    axis.scatter(*cloud[:, :2].T, s=2, color="#bbbbbb", linewidths=0)
    for index, place in enumerate(centres[:, :2]):
        colour, name = COLOURS[index % len(COLOURS)], f"({index})" if few[index] else str(index)
        circle = Circle((float(place[0]), float(place[1])), radius, facecolor="none", edgecolor=colour)
        circle.set_linestyle("--" if few[index] else "-")
        axis.add_patch(circle)
        axis.plot(*np.array([place - radius, place + radius]).T, linestyle="none")  # a circle widens no axis
        axis.text(*place, name, ha="center", va="center", fontsize=9, color=colour, weight="bold")
    dims = centres.shape[1]
    axis.set_title("concepts" if dims == 2 else f"concepts: the first two of {dims} dimensions", fontsize=10)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    return figure


def plot_magnitude_and_deviation(mean: Floats, deviation: Floats, rho: Floats, *, controls: Sequence[str]) -> Figure:
    """Draw |mean| against deviation of every voxel, a panel per concept, with the rank correlation.

    mean, deviation : (concept, voxel)
    """
    columns = min(5, len(mean))
    rows = -(-len(mean) // columns)
    figure, axes = new_figure(
        rows, columns, width=2.2 * columns, height=2.1 * rows, controls=controls, sharex=True, sharey=True
    )
    every = [axis for row in axes for axis in row]
    step = max(1, mean.shape[1] // MOST_POINTS)
    for index, axis in enumerate(every):
        if index >= len(mean):
            axis.set_visible(False)
            continue
        axis.scatter(
            np.abs(mean[index, ::step]), deviation[index, ::step], s=3, color=COLOURS[0], linewidths=0, alpha=0.4
        )
        text = "no tokens" if np.isnan(rho[index]) else f"rho {rho[index]:.2f}"
        axis.set_title(f"concept {index}: {text}", fontsize=8)
    figure.supxlabel("|mean activation| of a voxel", fontsize=9)
    figure.supylabel("standard deviation", fontsize=9)
    return figure


def plot_activations(
    rois: Sequence[str],
    layers: Mapping[str, Sequence[int]],
    mean: Mapping[str, Floats],
    error: Mapping[str, Floats],
    *,
    controls: Sequence[str],
) -> Figure:
    """Draw foreground (solid) and background (dashed) activations over layers, a panel per ROI, a colour per model.

    mean, error : by model (layer, foreground | background | difference, roi)
    """
    columns = min(4, len(rois))
    rows = -(-len(rois) // columns)
    figure, axes = new_figure(rows, columns, width=2.8 * columns + 1, height=2.3 * rows + 0.5, controls=controls)
    every = [axis for row in axes for axis in row]
    for index, axis in enumerate(every):
        if index >= len(rois):
            axis.set_visible(False)
            continue
        for number, (model, at) in enumerate(layers.items()):
            colour = COLOURS[number % len(COLOURS)]
            for side, style in ((0, "-"), (1, "--")):
                middle, spread = mean[model][:, side, index], np.nan_to_num(error[model][:, side, index])
                axis.plot(at, middle, style, color=colour, marker="o", markersize=2.5, linewidth=1.1)
                axis.fill_between(at, middle - spread, middle + spread, color=colour, alpha=0.15, linewidth=0)
        axis.axhline(0, color="#bbbbbb", linewidth=0.6, zorder=0)
        axis.set_title(rois[index], fontsize=9)
    for number, model in enumerate(layers):
        every[0].plot([], [], "-", color=COLOURS[number % len(COLOURS)], label=model)
    every[0].plot([], [], "-", color="#777777", label="foreground")
    every[0].plot([], [], "--", color="#777777", label="background")
    every[0].legend(fontsize=6, frameon=False)
    figure.supxlabel("layer", fontsize=9)
    figure.supylabel("mean activation of the ROI's voxels", fontsize=9)
    return figure


def plot_difference(
    rois: Sequence[str], slots: Sequence[str], difference: Floats, error: Floats, *, controls: Sequence[str]
) -> Figure:
    """Draw foreground minus background as a heat map of slots by ROIs; dots where it exceeds two standard errors.

    difference, error : (slot, roi)
    """
    figure, axes = new_figure(1, 1, width=2.5 + 0.4 * len(rois), height=1.5 + 0.2 * len(slots), controls=controls)
    axis = axes[0][0]
    largest = float(np.nanmax(np.abs(difference))) if np.isfinite(difference).any() else 1.0
    image = axis.imshow(difference, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(difference):
        if abs(value) > 2 * error[row, column]:
            axis.plot(column, row, ".", color="black", markersize=3)
    axis.set_xticks(range(len(rois)), rois, rotation=90)
    axis.set_yticks(range(len(slots)), slots)
    axis.set_title("foreground minus background", fontsize=10)
    figure.colorbar(image, ax=axis, shrink=0.8)
    return figure


def heat_over_photo(photo: Pixels, heat: Floats) -> Pixels:
    """Lay a similarity map over a photo in grey; -1 is blue, 0 leaves the photo, 1 is red.

    photo : (h, w, 3)
    heat  : (h, w) in -1 .. 1
    """
    grey = photo.mean(axis=2, keepdims=True)
    warm = np.array([214, 39, 40]) * (heat > 0)[..., None] + np.array([31, 119, 180]) * (heat <= 0)[..., None]
    share = 0.85 * np.clip(np.abs(heat), 0, 1)[..., None]
    mixed: Pixels = np.round(share * warm + (1 - share) * grey).astype(np.uint8)
    return mixed
