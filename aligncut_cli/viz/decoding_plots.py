"""Plots of a decoding: top-1 against candidates and against neurons, runs side by side, and where neurons look."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from aligncut_cli.viz.figures import add_legend, add_scale, key_line, list_axes, name_bottom, new_figure
from aligncut_cli.viz.style import COLOURS, FigureStyle

Floats = NDArray[np.float64]
_GREY = "#888888"
CURVES, PANEL, LEAST_PANEL, LEAST_MAP = 60.0, 45.0, 38.0, 16.0
"""Height of curves and of a panel, least width of a panel and of a map, mm."""


@dataclass(frozen=True)
class RunBar:
    """One run's top-1 with its interval."""

    name: str
    value: float
    low: float
    high: float


def plot_candidates(
    numbers: Sequence[int], runs: Mapping[str, Floats], chance: Floats, *, style: FigureStyle, controls: Sequence[str]
) -> Figure:
    """Draw top-1 of every run against the number of candidates, which grows in logarithmic steps.

    runs, chance : (numbers,)
    """
    keys = 4 if style.width > 120 else 2
    height = CURVES + style.line * (1 + ceil((len(runs) + 1) / keys))
    figure, axes = new_figure(1, 1, style=style, height=height, controls=controls)
    axis = axes[0][0]
    for at, (name, values) in enumerate(runs.items()):
        look = {"color": COLOURS[at % len(COLOURS)], "markersize": 2.5, "linewidth": 1}
        axis.plot(numbers, values, "o-", label=style.name(name), **look)
    axis.plot(numbers, chance, "--", color=_GREY, linewidth=1, label="guessing")
    axis.set_xscale("log")
    following = [*numbers[1:], math.inf]
    labels = [f"{number:,}" if after > 1.5 * number else "" for number, after in zip(numbers, following, strict=True)]
    axis.set_xticks(numbers, labels)
    axis.minorticks_off()
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("candidates", fontsize=style.font_size)
    axis.set_ylabel("top-1", fontsize=style.font_size)
    add_legend(figure, style=style, columns=keys)
    return figure


def plot_neurons(
    sizes: Sequence[int],
    top: Mapping[str, Floats],
    random: Mapping[str, Floats],
    *,
    style: FigureStyle,
    controls: Sequence[str],
) -> Figure:
    """Draw top-1 of the most responsive neurons over the central 95 % of random subsets, a panel per run.

    top    : (size,) of every run
    random : (size, subset) of every run
    """
    columns = style.columns(len(top), least=LEAST_PANEL)
    rows = ceil(len(top) / columns)
    height = PANEL * rows + 3 * style.line
    figure, axes = new_figure(rows, columns, style=style, height=height, controls=controls, sharex=True, sharey=True)
    for axis, (name, values) in zip(list_axes(axes, len(top)), top.items(), strict=True):
        low, middle, high = np.quantile(random[name], [0.025, 0.5, 0.975], axis=1)
        axis.fill_between(sizes, low, high, color=_GREY, alpha=0.3, linewidth=0)
        axis.plot(sizes, middle, "-", color=_GREY, linewidth=1)
        axis.plot(sizes, values, "o-", color=COLOURS[0], markersize=2.5, linewidth=1)
        axis.set_title(style.name(name), fontsize=style.font_size)
        axis.set_ylim(bottom=0)
    keys = [
        key_line("most responsive", COLOURS[0], marker="o"),
        key_line("random, median", _GREY),
        Patch(color=_GREY, alpha=0.3, linewidth=0, label="random, 95 %"),
    ]
    figure.supylabel("top-1", fontsize=style.font_size)
    name_bottom(axes, len(top), "neurons", style=style)
    add_legend(figure, style=style, columns=3, further=keys)
    return figure


def plot_runs(runs: Sequence[RunBar], *, chance: float, style: FigureStyle, controls: Sequence[str]) -> Figure:
    """Draw top-1 of runs, say of bands of frequencies, as bars with intervals from the top, and chance."""
    height = (1.5 * len(runs) + 6) * style.line
    figure, axes = new_figure(1, 1, style=style, height=max(height, 30.0), controls=controls)
    axis, rows = axes[0][0], np.arange(len(runs))
    axis.barh(rows, [run.value for run in runs], height=0.65, color=COLOURS[0])
    for row, run in zip(rows, runs, strict=True):
        axis.plot([run.low, run.high], [row, row], "|-", color="black", linewidth=0.9, markersize=4)
    interval = key_line("95 % interval over images", "black", width=0.9)
    axis.axvline(chance, color=_GREY, linestyle="--", linewidth=1, label="guessing")
    axis.set_yticks(rows, [style.name(run.name) for run in runs], fontsize=style.small)
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("top-1", fontsize=style.font_size)
    add_legend(figure, style=style, columns=2, further=[interval])
    return figure


def plot_look(
    names: Sequence[str], maps: NDArray[np.floating], *, style: FigureStyle, controls: Sequence[str]
) -> Figure:
    """Draw where neurons look, one map each in one scale.

    maps : (neurons, row, column)
    """
    columns = min(style.columns(len(names), least=LEAST_MAP), 8)
    rows = ceil(len(names) / columns)
    side = min(style.width / columns, 2 * LEAST_MAP)
    figure, axes = new_figure(rows, columns, style=style, height=rows * (side + style.line), controls=controls)
    highest = float(maps.max()) or 1.0
    shown = list_axes(axes, len(names))
    for axis, name, values in zip(shown, names, maps, strict=True):
        image = axis.imshow(values, vmin=0, vmax=highest, cmap="magma")
        axis.set_axis_off()
        axis.set_title(name, fontsize=style.small)
    add_scale(figure, image, shown, "weight, root mean square over channels", style=style)
    return figure
