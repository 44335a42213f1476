"""Shared by all plots: figures without any global state, in one plain look, with the control said in red."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aligncut_cli.controls import describe_controls

COLOURS = ("#3b6ea8", "#c8553d", "#5a9367", "#8e5ea2", "#c99a2e", "#4aa3a2", "#7a7a7a", "#a83b6e")
FOREGROUND, BACKGROUND = "#c8553d", "#3b6ea8"


def new_figure(
    rows: int, columns: int, *, width: float, height: float, controls: Sequence[str], **more: Any
) -> tuple[Figure, list[list[Any]]]:
    """Return a figure and its axes, (row, column); `width` and `height` in inches of the whole figure."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **more)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    if controls:
        figure.suptitle(describe_controls(controls), color="#b41e1e", fontsize=9)
    return figure, [list(row) for row in axes]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, without the time and version, so that the same plot has the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})
