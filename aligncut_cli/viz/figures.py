"""Shared by all plots: figures without any global state, in one plain look, with the control said in red."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from aligncut_cli.controls import describe_controls
from aligncut_cli.viz.fonts import wrap_text
from aligncut_cli.viz.style import CONTROL, MM_PER_INCH, FigureStyle

METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    "svg": {"Creator": None, "Date": None},
}
"""Without the time and versions, so that the same plot has the same bytes."""


def new_figure(
    rows: int, columns: int, *, style: FigureStyle, height: float, controls: Sequence[str], **more: Any
) -> tuple[Figure, list[list[Any]]]:
    """Return a figure and its axes, (row, column); `height` in mm of the whole figure, its width is the style's."""
    size = (style.width / MM_PER_INCH, (height + (style.line if controls else 0)) / MM_PER_INCH)
    figure = Figure(figsize=size, layout="constrained", dpi=style.dpi)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **more)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        for spine in axis.spines.values():
            spine.set_linewidth(0.6)
        axis.tick_params(labelsize=style.small, width=0.6, length=2)
    if controls:
        figure.suptitle(describe_controls(controls), color=CONTROL, fontsize=style.font_size)
    return figure, [list(row) for row in axes]


def list_axes(axes: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """Return the first `count` axes, row by row, and hide the others."""
    every = [axis for row in axes for axis in row]
    for axis in every[count:]:
        axis.set_visible(False)
    return every[:count]


def add_scale(figure: Figure, image: Any, axes: Sequence[Any], label: str, *, style: FigureStyle) -> None:
    """Add a colour scale with what it measures."""
    bar = figure.colorbar(image, ax=list(axes), shrink=0.9, aspect=30, pad=0.02)
    bar.set_label(label, fontsize=style.font_size)
    bar.ax.tick_params(labelsize=style.small, width=0.6, length=2)
    bar.outline.set_linewidth(0.6)


def key_line(label: str, colour: str, dashes: Any = "-", *, marker: str = "", width: float = 1.0) -> Line2D:
    """Return a line for a legend that no axis draws."""
    return Line2D([], [], color=colour, linestyle=dashes, marker=marker, markersize=2.5, linewidth=width, label=label)


def add_legend(
    figure: Figure, *, style: FigureStyle, columns: int, title: str = "", further: Sequence[Any] = ()
) -> None:
    """Put the legend of all that has a label below the axes, with what has to be said of all of it.

    further : labelled lines and areas that no axis draws
    """
    drawn = [handle for axis in figure.axes for handle in axis.get_legend_handles_labels()[0]]
    legend = figure.legend(
        handles=[*drawn, *further],
        loc="outside lower center",
        ncols=columns,
        fontsize=style.small,
        title=title or None,
        title_fontsize=style.small,
        frameon=False,
    )
    legend.set_in_layout(True)


def name_bottom(axes: Sequence[Sequence[Any]], count: int, label: str, *, style: FigureStyle) -> None:
    """Name the lowest of the first `count` axes in each column, and let it have its ticks."""
    columns = len(axes[0])
    for column in range(min(columns, count)):
        lowest = axes[(count - 1 - column) // columns][column]
        lowest.set_xlabel(label, fontsize=style.font_size)
        lowest.tick_params(labelbottom=True)


def break_long_labels(figure: Figure) -> None:
    """Break titles and labels of the figure, axes and scales that would end beyond the figure into lines."""
    figure.draw_without_rendering()  # which lays it out
    page = figure.bbox
    labels = [label for axis in figure.axes for label in (axis.xaxis.label, axis.yaxis.label)]
    for text in [*figure.texts, *labels]:
        if not text.get_text().strip():
            continue
        box = text.get_window_extent()
        upright = text.get_rotation() == 90
        low, high = (box.y0, box.y1) if upright else (box.x0, box.x1)
        end = page.height if upright else page.width
        if low < 0 or high > end:
            # Both ends as far from the middle as the nearer end of the page is.
            room = 2 * min((low + high) / 2, end - (low + high) / 2) / figure.dpi * MM_PER_INCH
            text.set_text("\n".join(wrap_text(text.get_text(), 0.98 * room, float(text.get_fontsize()))))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that its path ends in.

    PDF embeds TrueType letters, which can be searched and edited; SVG holds their outlines, so needs no fonts.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if figure.get_layout_engine() is not None:
        break_long_labels(figure)
    format = path.suffix.removeprefix(".")
    with rc_context({"pdf.fonttype": 42, "svg.fonttype": "path", "svg.hashsalt": "aligncut"}):
        figure.savefig(path, format=format, metadata=METADATA[format])
