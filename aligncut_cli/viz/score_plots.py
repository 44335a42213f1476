"""Plots mIoU against layer, one panel per model, settings side by side (Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aligncut_cli.viz.figures import COLOURS, new_figure

Floats = NDArray[np.float64]


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


def plot_scores(lines: Sequence[ScoreLine], *, title: str, controls: Sequence[str]) -> Figure:
    """Draw mean and spread over repetitions, with chance and the bound as what the number can be compared to."""
    models = list(dict.fromkeys(line.model for line in lines))
    labels = list(dict.fromkeys(line.label for line in lines))
    figure, axes = new_figure(1, len(models), width=1.0 + 3.4 * len(models), height=3.6, controls=controls, sharey=True)
    for axis, model in zip(axes[0], models, strict=True):
        for line in (line for line in lines if line.model == model):
            colour = COLOURS[labels.index(line.label) % len(COLOURS)]
            mean = line.miou.mean(axis=0)
            axis.plot(line.layers, mean, "o-", color=colour, markersize=3, label=line.label)
            if len(line.miou) > 1:
                spread = line.miou.std(axis=0, ddof=1)
                axis.fill_between(line.layers, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
            axis.plot(line.layers, line.shuffled, ":", color=colour, linewidth=1)
            if line.chance is not None:
                axis.plot(line.layers, line.chance, "--", color=colour, linewidth=0.8)
            axis.axhline(line.bound, color="#888888", linewidth=0.8)
        axis.set_title(model, fontsize=10)
        axis.set_xlabel("layer", fontsize=9)
        axis.set_ylim(0, 1.02)
    axes[0][0].set_ylabel("mIoU", fontsize=9)
    for style, name in (("-", "bound of the token grid"), (":", "other images' masks"), ("--", "chance")):
        if name != "chance" or any(line.chance is not None for line in lines):
            axes[0][-1].plot([], [], style, color="#888888", linewidth=1, label=name)
    axes[0][-1].legend(fontsize=7, frameon=False)
    figure.supxlabel(title, fontsize=8)
    return figure


def plot_layer_scores(
    rois: Sequence[str],
    layers: Mapping[str, Sequence[int]],
    r2: Mapping[str, NDArray[np.float32]],
    *,
    controls: Sequence[str],
) -> Figure:
    """Heat maps of how well each layer alone predicts each ROI, one per model in one colour scale.

    layers : by model, its layer numbers
    r2     : by model (layer, roi) variance explained on held-out images; below 0 is drawn as 0
    """
    deepest = max(map(len, layers.values()))
    figure, axes = new_figure(
        1, len(layers), width=1.2 + 2.6 * len(layers), height=1.6 + 0.22 * deepest, controls=controls
    )
    highest = max(1e-3, max(float(np.nanmax(values)) for values in r2.values()))
    images = []
    for axis, (model, numbers) in zip(axes[0], layers.items(), strict=True):
        images.append(axis.imshow(np.maximum(r2[model], 0), vmin=0, vmax=highest, cmap="viridis", aspect="auto"))
        axis.set_title(model, fontsize=9)
        axis.set_xticks(range(len(rois)), rois, rotation=90, fontsize=7)
        axis.set_yticks(range(len(numbers)), [str(number) for number in numbers], fontsize=7)
    axes[0][0].set_ylabel("layer", fontsize=8)
    figure.colorbar(images[-1], ax=axes[0], label="R2 of a ridge on this layer alone, held-out images", shrink=0.9)
    return figure
