"""Plots of concepts that tokens move between: maps, heat maps (Fig. 10), flows over layers, trajectories (Fig. 9)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aligncut_cli.viz.figures import BACKGROUND, COLOURS, FOREGROUND, new_figure

Floats = NDArray[np.float64]


def plot_transition(
    titles: tuple[str, str],
    maps: tuple[Floats, Floats],
    centres: tuple[Floats, Floats],
    radii: tuple[float, float],
    probability: Mapping[str, Floats],
    few: Mapping[str, NDArray[np.bool_]],
    *,
    subtitle: str,
    controls: Sequence[str],
) -> Figure:
    """Draw both slots' maps with their concepts, and a heat map of probabilities for each kind of token.

    maps        : (n, 2) tokens of each slot, for the cloud
    centres     : (concept, 2)
    probability : (from, to) by name; NaN rows have no token
    few         : (from,) by name, which rows rest on few tokens; they are hatched and in brackets
    """
    count = 2 + len(probability)
    figure, axes = new_figure(1, count, width=3.2 * count, height=3.5, controls=controls)
    for axis, title, points, centre, radius, letter in zip(axes[0], titles, maps, centres, radii, "AB", strict=False):
        axis.scatter(*points.T, s=2, color="#bbbbbb", linewidths=0)
        for index, place in enumerate(centre):
            colour = COLOURS[index % len(COLOURS)]
            axis.add_patch(_circle(place, radius, colour))
            _cover(axis, np.array([place - radius, place + radius]))
            axis.text(*place, f"{letter}{index}", ha="center", va="center", fontsize=9, color=colour, weight="bold")
        axis.set_title(title, fontsize=10)
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
    image: Any = None
    for axis, (name, values) in zip(axes[0][2:], probability.items(), strict=True):
        image = axis.imshow(values, vmin=0, vmax=1, cmap="magma_r", interpolation="nearest")
        for (row, column), value in np.ndenumerate(values):
            text = "-" if np.isnan(value) else f"({value:.2f})" if few[name][row] else f"{value:.2f}"
            colour = "white" if value > 0.5 else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        for row in np.flatnonzero(few[name]):
            axis.axhspan(row - 0.5, row + 0.5, facecolor="none", edgecolor="#888888", hatch="///", linewidth=0)
        axis.set_xticks(range(values.shape[1]), [f"B{i}" for i in range(values.shape[1])])
        axis.set_yticks(range(values.shape[0]), [f"A{i}" for i in range(values.shape[0])])
        axis.set_title(f"{name} tokens", fontsize=10)
        axis.spines[["top", "right"]].set_visible(True)
    figure.colorbar(image, ax=axes[0][-1], label="share of A that lands in B", shrink=0.8)
    figure.supxlabel(subtitle, fontsize=8)
    return figure


def _cover(axis: Any, points: Floats) -> None:
    """Widen an axis to some points; circles, arrows and text alone do not."""
    axis.plot(*points.T, linestyle="none")


def _circle(place: Floats, radius: float, colour: str) -> Any:
    from matplotlib.patches import Circle

    return Circle((float(place[0]), float(place[1])), radius, facecolor="none", edgecolor=colour, linewidth=1.2)


def plot_flow(
    model: str,
    layers: Sequence[int],
    counts: Mapping[str, NDArray[np.int64]],
    members: Mapping[str, NDArray[np.int64]],
    tests: Mapping[str, Floats] | None,
    *,
    controls: Sequence[str],
) -> Figure:
    """Draw tokens flowing between the concepts of consecutive layers, and the bifurcation score of each step.

    counts  : (step, from, to) tokens for `all`, and for `foreground` where there are masks
    members : (step, from) tokens in each concept
    tests   : bifurcation, expected and p_corrected, (step,) each
    """
    rows = 2 if tests is not None else 1
    ratios = {"height_ratios": [3, 1]} if rows == 2 else {}
    figure, axes = new_figure(
        rows, 1, width=max(6.0, 1.1 * len(layers)), height=4 + 1.6 * (rows - 1), controls=controls, sharex=True,
        gridspec_kw=ratios,
    )  # fmt: skip
    axis = axes[0][0]
    flow = counts["all"].astype(np.float64)
    n_concepts = flow.shape[1]
    size = np.concatenate([members["all"], flow[-1].sum(axis=0)[None]]).astype(np.float64)
    scale = 0.8 / max(size.sum(axis=1).max(), 1)
    gap = 0.2 / max(n_concepts - 1, 1)
    base = np.concatenate([np.zeros((len(layers), 1)), np.cumsum(size * scale + gap, axis=1)[:, :-1]], axis=1)
    for step in range(len(layers) - 1):
        leaving, arriving = base[step].copy(), base[step + 1].copy()
        for a in range(n_concepts):
            for b in range(n_concepts):
                width = flow[step, a, b] * scale
                if width <= 0:
                    continue
                colour: Any = COLOURS[a % len(COLOURS)]
                if "foreground" in counts:
                    colour = _mix_colours(counts["foreground"][step, a, b] / flow[step, a, b])
                t = np.linspace(0, 1, 24)
                ease = t * t * (3 - 2 * t)
                x = step + 0.06 + t * 0.88
                low = leaving[a] + (arriving[b] - leaving[a]) * ease
                axis.fill_between(x, low, low + width, color=colour, alpha=0.45, linewidth=0)
                leaving[a] += width
                arriving[b] += width
    for column in range(len(layers)):
        for concept in range(n_concepts):
            low, height = base[column, concept], size[column, concept] * scale
            axis.fill_between([column - 0.06, column + 0.06], low, low + max(height, 0.002), color="#333333")
            axis.text(column, low + height + 0.004, str(concept), ha="center", va="bottom", fontsize=6)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_title(f"{model}: tokens that move from concept to concept", fontsize=10)
    axis.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    if "foreground" in counts:
        axis.text(
            0.0, -0.02, "blue: background tokens, red: foreground", fontsize=7, va="top", transform=axis.transAxes
        )
    if tests is not None:
        below = axes[1][0]
        middle = np.arange(len(layers) - 1) + 0.5
        below.bar(middle, np.nan_to_num(tests["bifurcation"]), width=0.5, color="#8e5ea2", label="score")
        below.plot(middle, tests["expected"], "_", color="#333333", markersize=14, label="with masks of other images")
        for x, score, p in zip(middle, tests["bifurcation"], tests["p_corrected"], strict=True):
            if np.isfinite(score):
                below.text(x, score, f"p={p:.3f}", ha="center", va="bottom", fontsize=6)
        below.set_ylim(0, 1.15 * max(float(np.nanmax(np.append(tests["bifurcation"], 0.1))), 0.1))
        below.set_ylabel("bifurcation", fontsize=8)
        below.set_xlabel("layer", fontsize=9)
        below.legend(fontsize=6, frameon=False)
    return figure


def _mix_colours(share: float) -> tuple[float, float, float]:
    figure, ground = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) / 255 for c in (FOREGROUND, BACKGROUND))
    mixed = share * figure + (1 - share) * ground
    return float(mixed[0]), float(mixed[1]), float(mixed[2])


def plot_trajectories(
    model: str,
    layers: Sequence[int],
    cloud: Floats,
    paths: Floats,
    names: Sequence[str],
    *,
    controls: Sequence[str],
) -> Figure:
    """Draw each token's way over the map with an arrow per layer, its first and last layer named.

    cloud : (n, 2) sampled nodes
    paths : (token, layer, 2)
    """
    figure, axes = new_figure(1, 1, width=8, height=6.5, controls=controls)
    axis = axes[0][0]
    axis.scatter(*cloud.T, s=2, color="#cfcfcf", linewidths=0)
    for index, (path, name) in enumerate(zip(paths, names, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        for start, end in itertools.pairwise(path):
            arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
            axis.annotate("", xy=end, xytext=start, arrowprops=arrow)
        _cover(axis, path)
        axis.plot(*path[0], "o", color=colour, markersize=4, label=name)
        axis.text(*path[0], str(layers[0]), fontsize=7, color=colour, ha="right", va="bottom")
        axis.text(*path[-1], str(layers[-1]), fontsize=7, color=colour, ha="left", va="top")
    axis.set_title(f"{model}: tokens followed from layer {layers[0]} to {layers[-1]}", fontsize=10)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.legend(fontsize=6, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
