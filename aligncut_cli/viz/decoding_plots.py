"""Plots of a decoding: top-1 against candidates and against neurons, runs side by side, and where neurons look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aligncut_cli.viz.figures import COLOURS, new_figure

Floats = NDArray[np.float64]
_GREY = "#888888"


@dataclass(frozen=True)
class RunBar:
    """One run's top-1 with its interval."""

    name: str
    value: float
    low: float
    high: float


def plot_candidates(
    numbers: Sequence[int], runs: Mapping[str, Floats], chance: Floats, *, controls: Sequence[str]
) -> Figure:
    """Draw top-1 of every run against the number of candidates, both in logarithmic steps.

    runs, chance : (numbers,)
    """
    figure, axes = new_figure(1, 1, width=4.6, height=3.4, controls=controls)
    axis = axes[0][0]
    for at, (name, values) in enumerate(runs.items()):
        axis.plot(numbers, values, "o-", color=COLOURS[at % len(COLOURS)], markersize=3, label=name)
    axis.plot(numbers, chance, "--", color=_GREY, linewidth=1, label="guessing")
    axis.set_xscale("log")
    axis.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axis.minorticks_off()
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("candidates", fontsize=9)
    axis.set_ylabel("top-1", fontsize=9)
    axis.legend(fontsize=7, frameon=False)
    return figure


def plot_neurons(
    sizes: Sequence[int], top: Mapping[str, Floats], random: Mapping[str, Floats], *, controls: Sequence[str]
) -> Figure:
    """Draw top-1 of the most responsive neurons over the central 95 % of random subsets, a panel per run.

    top    : (size,) of every run
    random : (size, subset) of every run
    """
    figure, axes = new_figure(1, len(top), width=1 + 3.2 * len(top), height=3.2, controls=controls, sharey=True)
    for axis, (name, values) in zip(axes[0], top.items(), strict=True):
        low, middle, high = np.quantile(random[name], [0.025, 0.5, 0.975], axis=1)
        axis.fill_between(sizes, low, high, color=_GREY, alpha=0.3, linewidth=0, label="random, 95 %")
        axis.plot(sizes, middle, "-", color=_GREY, linewidth=1, label="random, median")
        axis.plot(sizes, values, "o-", color=COLOURS[0], markersize=3, label="most responsive")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("neurons", fontsize=9)
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("top-1", fontsize=9)
    axes[0][-1].legend(fontsize=7, frameon=False)
    return figure


def plot_runs(runs: Sequence[RunBar], *, chance: float, controls: Sequence[str]) -> Figure:
    """Draw top-1 of runs side by side, say of bands of frequencies, with intervals and chance."""
    figure, axes = new_figure(1, 1, width=1.6 + 0.7 * len(runs), height=3.4, controls=controls)
    axis = axes[0][0]
    values = np.array([run.value for run in runs])
    errors = np.array([[run.value - run.low, run.high - run.value] for run in runs]).T
    axis.bar(range(len(runs)), values, color=COLOURS[0], width=0.6)
    axis.errorbar(range(len(runs)), values, yerr=errors, fmt="none", ecolor="#333333", elinewidth=1, capsize=3)
    axis.axhline(chance, color=_GREY, linestyle="--", linewidth=1)
    axis.set_xticks(range(len(runs)), [run.name for run in runs], rotation=30, ha="right", fontsize=8)
    axis.set_ylabel("top-1", fontsize=9)
    return figure


def plot_look(names: Sequence[str], maps: NDArray[np.floating], *, controls: Sequence[str]) -> Figure:
    """Draw where neurons look, one map each in one scale.

    maps : (neurons, row, column)
    """
    columns = min(8, len(names))
    rows = -(-len(names) // columns)
    figure, axes = new_figure(rows, columns, width=1.1 * columns + 0.4, height=1.25 * rows + 0.4, controls=controls)
    flat = [axis for row in axes for axis in row]
    highest = float(maps.max()) or 1.0
    for axis in flat:
        axis.set_axis_off()
    for axis, name, values in zip(flat, names, maps, strict=False):
        axis.imshow(values, vmin=0, vmax=highest, cmap="magma")
        axis.set_title(name, fontsize=7)
    return figure
