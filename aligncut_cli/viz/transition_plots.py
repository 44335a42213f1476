"""Plots of concepts that tokens move between: maps and heat maps (Fig. 10), and trajectories (Fig. 9)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from aligncut_cli.viz.figures import add_scale, list_axes, new_figure
from aligncut_cli.viz.fonts import widest_text, wrap_text
from aligncut_cli.viz.style import COLOURS, FigureStyle

Floats = NDArray[np.float64]
PANEL = 40.0
"""Least width of a map or a heat map, mm."""
DASHES = ("-", "--", ":", "-.")
"""Styles of lines in turn, once the colours are used up."""


def plot_transition(
    titles: tuple[str, str],
    maps: tuple[Floats, Floats],
    centres: tuple[Floats, Floats],
    radii: tuple[float, float],
    probability: Mapping[str, Floats],
    few: Mapping[str, NDArray[np.bool_]],
    *,
    subtitle: str,
    style: FigureStyle,
    controls: Sequence[str],
) -> Figure:
    """Draw both slots' maps with their concepts, and a heat map of probabilities for each kind of token.

    titles      : MODEL:LAYER of both
    maps        : (n, 2) tokens of each slot, for the cloud
    centres     : (concept, 2)
    probability : (from, to) by name; NaN rows have no token
    few         : (from,) by name, which rows rest on few tokens; they are hatched and in brackets
    """
    count = 2 + len(probability)
    columns = style.columns(count, least=PANEL)
    rows = ceil(count / columns)
    notes = wrap_text(subtitle, 0.95 * style.width, style.small)
    side = (style.width - 14) / columns
    height = rows * (side + 2 * style.line) + len(notes) * style.line
    figure, axes = new_figure(rows, columns, style=style, height=height, controls=controls)
    every = list_axes(axes, count)
    for axis, title, points, centre, radius, letter in zip(every, titles, maps, centres, radii, "AB", strict=False):
        axis.scatter(*points.T, s=1, color="#c4c4c4", linewidths=0, rasterized=True)
        for index, place in enumerate(centre):
            colour = COLOURS[index % len(COLOURS)]
            axis.add_patch(draw_circle(place, radius, colour))
            cover(axis, np.array([place - radius, place + radius]))
            look = {"ha": "center", "va": "center", "color": colour, "weight": "bold"}
            axis.text(*place, f"{letter}{index}", fontsize=style.font_size, **look)
        axis.set_title(f"{letter}: {style.slot(title)}", fontsize=style.font_size)
        name_map_axes(axis, style)
    image: Any = None
    for axis, (name, values) in zip(every[2:], probability.items(), strict=True):
        image = axis.imshow(values, vmin=0, vmax=1, cmap="viridis_r", interpolation="nearest", aspect="auto")
        size = min(style.small, 0.8 * side / values.shape[1] / 5 * 72 / 25.4)
        for (row, column), value in np.ndenumerate(values):
            text = "-" if np.isnan(value) else f"({value:.2f})" if few[name][row] else f"{value:.2f}"
            colour = "white" if value > 0.5 else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
        for row in np.flatnonzero(few[name]):
            axis.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor="#888888", hatch="///", linewidth=0)
        axis.set_xticks(range(values.shape[1]), [f"B{i}" for i in range(values.shape[1])])
        axis.set_yticks(range(values.shape[0]), [f"A{i}" for i in range(values.shape[0])])
        axis.set_title(f"{name} tokens", fontsize=style.font_size)
        axis.spines[["top", "right"]].set_visible(True)
    add_scale(figure, image, every[2:], "share of A that lands in B", style=style)
    figure.supxlabel("\n".join(notes), fontsize=style.small)
    return figure


def name_map_axes(axis: Any, style: FigureStyle) -> None:
    """Say what a map's axes are; their unit means nothing, so they have no ticks."""
    axis.set_aspect("equal", adjustable="box", anchor="C")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel("t-SNE 1 (arbitrary unit)", fontsize=style.small)
    axis.set_ylabel("t-SNE 2 (arbitrary unit)", fontsize=style.small)


def cover(axis: Any, points: Floats) -> None:
    """Widen an axis to some points; circles, arrows and text alone do not."""
    axis.plot(*points.T, linestyle="none")


def draw_circle(place: Floats, radius: float, colour: str) -> Circle:
    """Return the outline of a concept."""
    return Circle((float(place[0]), float(place[1])), radius, facecolor="none", edgecolor=colour, linewidth=1.0)


def plot_trajectories(
    model: str,
    layers: Sequence[int],
    cloud: Floats,
    paths: Floats,
    names: Sequence[str],
    *,
    style: FigureStyle,
    controls: Sequence[str],
) -> Figure:
    """Draw each token's way over the map in one colour, with an arrow per layer and its name at the end.

    Names stand at the right, in the order of the paths' ends, each with a line to its own.

    cloud : (n, 2) sampled nodes
    paths : (token, layer, 2)
    """
    beside = min(0.4 * style.width, widest_text(names, style.small) + 6)
    height = max(0.72 * (style.width - beside), (len(names) + 2) * style.line + 12)
    figure, axes = new_figure(1, 1, style=style, height=height, controls=controls)
    axis = axes[0][0]
    axis.scatter(*cloud.T, s=1, color="#d0d0d0", linewidths=0, rasterized=True)
    for index, path in enumerate(paths):
        colour, dashes = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
        for start, end in itertools.pairwise(path):
            arrow = {"arrowstyle": "-|>", "color": colour, "lw": 0.9, "ls": dashes, "shrinkA": 0, "shrinkB": 0}
            axis.annotate("", xy=end, xytext=start, arrowprops={**arrow, "mutation_scale": 5})
        cover(axis, path)
        axis.plot(*path[0], "o", color=colour, markersize=3)
        axis.plot(*path[-1], "s", color=colour, markersize=3)
    name_map_axes(axis, style)
    order = np.argsort(-paths[:, -1, 1], kind="stable")
    for rank, index in enumerate(order):
        colour = COLOURS[index % len(COLOURS)]
        y = 1 - (rank + 0.5) / len(order)
        axis.annotate(
            names[index],
            xy=paths[index, -1],
            xytext=(1.03, y),
            textcoords="axes fraction",
            fontsize=style.small,
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4, "alpha": 0.7, "shrinkA": 0, "shrinkB": 2},
        )
    title = f"{style.name(model)}: tokens from layer {layers[0]} (dots) to {layers[-1]} (squares)"
    axis.set_title(title, fontsize=style.font_size)
    return figure
