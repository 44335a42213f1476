"""Plots mIoU against layer, one panel per model, settings side by side (Fig. 5); and what each layer predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from aligncut_cli.viz.figures import add_legend, add_scale, key_line, list_axes, name_bottom, new_figure
from aligncut_cli.viz.fonts import widest_text, wrap_text
from aligncut_cli.viz.style import COLOURS, FigureStyle

Floats = NDArray[np.float64]
PANEL, ROW = 38.0, 45.0
"""Least width and height of a panel, mm."""


@dataclass(frozen=True)
class ScoreLine:
    """One setting's scores of one model.

    miou     : (repetition, layer)
    shuffled : (layer,) with other images' masks
    chance   : (layer,), or None
    bound    : what labels that are constant on a token can reach
    """

    label: str
    model: str
    layers: Sequence[int]
    miou: Floats
    shuffled: Floats
    chance: Floats | None
    bound: float


def plot_scores(lines: Sequence[ScoreLine], *, title: str, style: FigureStyle, controls: Sequence[str]) -> Figure:
    """Draw mean and spread over repetitions, with chance and the bound as what the number can be compared to."""
    models = list(dict.fromkeys(line.model for line in lines))
    labels = list(dict.fromkeys(line.label for line in lines))
    columns = style.columns(len(models), least=PANEL)
    rows = ceil(len(models) / columns)
    keys = 4 if style.width > 120 else 2
    below = style.line * (2 + ceil((len(labels) + 3) / keys))
    figure, axes = new_figure(
        rows, columns, style=style, height=ROW * rows + below, controls=controls, sharey=True, sharex=True
    )
    for axis, model in zip(list_axes(axes, len(models)), models, strict=True):
        for line in (line for line in lines if line.model == model):
            colour = COLOURS[labels.index(line.label) % len(COLOURS)]
            mean = line.miou.mean(axis=0)
            axis.plot(line.layers, mean, "o-", color=colour, markersize=2.5, linewidth=1)
            if len(line.miou) > 1:
                spread = line.miou.std(axis=0, ddof=1)
                axis.fill_between(line.layers, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
            axis.plot(line.layers, line.shuffled, ":", color=colour, linewidth=1)
            if line.chance is not None:
                axis.plot(line.layers, line.chance, "--", color=colour, linewidth=0.8)
            axis.axhline(line.bound, color="#888888", linewidth=0.8)
        axis.set_title(style.name(model), fontsize=style.font_size)
        axis.set_ylim(0, 1.02)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    keys_of = [key_line(label, COLOURS[number % len(COLOURS)], marker="o") for number, label in enumerate(labels)]
    for dashes, name in (("-", "bound of the token grid"), (":", "shuffled: masks of other images"), ("--", "chance")):
        if name != "chance" or any(line.chance is not None for line in lines):
            keys_of.append(key_line(name, "#888888", dashes))
    add_legend(
        figure,
        style=style,
        columns=keys,
        title="\n".join(wrap_text(title, 0.95 * style.width, style.small)),
        further=keys_of,
    )
    figure.supylabel("mIoU", fontsize=style.font_size)
    name_bottom(axes, len(models), "layer", style=style)
    return figure


@dataclass(frozen=True)
class RoiScore:
    """Variance explained in one region.

    low, high : 95 % interval, or None
    ridge     : of a ridge on the same features, or None
    ceiling   : what could be explained, or None
    """

    roi: str
    r2: float
    low: float | None
    high: float | None
    ridge: float | None
    ceiling: float | None


def plot_roi_scores(scores: Sequence[RoiScore], *, style: FigureStyle, controls: Sequence[str]) -> Figure:
    """Draw R2 of every region as a bar with its interval, all on one scale, in the order given from the top."""
    height = (1.5 * len(scores) + 6) * style.line
    figure, axes = new_figure(1, 1, style=style, height=max(height, 30.0), controls=controls)
    axis, rows = axes[0][0], np.arange(len(scores))
    axis.barh(rows, [score.r2 for score in scores], height=0.65, color=COLOURS[0], label="fit")
    for row, score in zip(rows, scores, strict=True):
        if score.low is not None and score.high is not None:
            axis.plot([score.low, score.high], [row, row], color="black", linewidth=0.9)
            axis.plot([score.low, score.high], [row, row], "|", color="black", markersize=4, linestyle="none")
    marks = (("ridge", "D", COLOURS[1], "ridge"), ("ceiling", "|", COLOURS[2], "noise ceiling"))
    for name, sign, colour, label in marks:
        found = [(value, row) for row, s in zip(rows, scores, strict=True) if (value := getattr(s, name)) is not None]
        if found:
            look = {"color": colour, "markersize": 3 if sign == "D" else 9, "linestyle": "none", "label": label}
            axis.plot(*np.array(found, float).T, sign, **look)
    interval = key_line("95 % interval over images", "black", width=0.9)
    axis.axvline(0, color="#888888", linewidth=0.6)
    axis.set_yticks(rows, [score.roi for score in scores], fontsize=style.small)
    axis.invert_yaxis()
    axis.set_xlabel("R2 on held-out images (1 is exact)", fontsize=style.font_size)
    columns = 4 if style.width > 120 else 2
    add_legend(figure, style=style, columns=columns, further=[interval])
    return figure


def plot_layer_scores(
    rois: Sequence[str],
    layers: Mapping[str, Sequence[int]],
    r2: Mapping[str, NDArray[np.float32]],
    *,
    style: FigureStyle,
    controls: Sequence[str],
) -> Figure:
    """Heat maps of how well each layer alone predicts each ROI, one per model in one colour scale.

    layers : by model, its layer numbers
    r2     : by model (layer, roi) variance explained on held-out images; below 0 is drawn as 0
    """
    deepest = max(map(len, layers.values()))
    cell = 1.05 * style.line
    widest = widest_text(rois, style.small)
    columns = style.columns(len(layers), least=max(25.0, cell * len(rois) + 4 * style.line), beside=22)
    rows = ceil(len(layers) / columns)
    height = rows * (cell * deepest + widest + 3 * style.line) + style.line
    figure, axes = new_figure(rows, columns, style=style, height=max(height, 40.0), controls=controls)
    highest = max(1e-3, max(float(np.nanmax(values)) for values in r2.values()))
    shown = list_axes(axes, len(layers))
    for axis, (model, numbers) in zip(shown, layers.items(), strict=True):
        image = axis.imshow(np.maximum(r2[model], 0), vmin=0, vmax=highest, cmap="viridis", aspect="auto")
        axis.set_title(style.name(model), fontsize=style.font_size)
        axis.set_xticks(range(len(rois)), rois, rotation=90, fontsize=style.small)
        axis.set_yticks(range(len(numbers)), [str(number) for number in numbers], fontsize=style.small)
    figure.supylabel("layer", fontsize=style.font_size)
    add_scale(figure, image, shown, "R2 of this layer alone, held-out images", style=style)
    return figure
