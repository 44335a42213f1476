"""Draws slot-by-slot matrices side by side in one colour scale (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aligncut_cli.controls import describe_controls


def draw_matrices(
    path: Path,
    matrices: Mapping[str, NDArray[np.float64]],
    labels: Sequence[str],
    *,
    low: float,
    label: str,
    controls: Sequence[str],
) -> None:
    """Write a PNG with one (slots, slots) matrix per title; blank where slots cannot be compared.

    low      : end of the scale, whose other end is 1: -1 in two colours, 0 in one
    label    : what a cell is
    controls : said in red
    """
    figure = Figure(figsize=(1.2 + 5.2 * len(matrices), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    step = max(1, len(labels) // 18)
    ticks = range(0, len(labels), step)
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    images = []
    for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
        images.append(
            axis.imshow(matrix, vmin=low, vmax=1, cmap="RdBu_r" if low < 0 else "Reds", interpolation="nearest")
        )
        axis.set_title(title)
        axis.set_xticks(list(ticks), [labels[i] for i in ticks], rotation=90, fontsize=7)
        axis.set_yticks(list(ticks), [labels[i] for i in ticks], fontsize=7)
    figure.colorbar(images[-1], ax=list(axes), label=label, shrink=0.8)
    if controls:
        figure.suptitle(describe_controls(controls), color="#b41e1e")
    figure.savefig(path, dpi=110)
