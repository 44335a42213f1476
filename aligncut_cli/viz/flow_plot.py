"""Draws tokens flowing between the concepts of consecutive layers, in colours that follow a concept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from aligncut_cli.viz.canvas import Pixels
from aligncut_cli.viz.figures import new_figure
from aligncut_cli.viz.style import COLOURS, FigureStyle

Floats = NDArray[np.float64]
HEIGHT, TESTS = 78.0, 30.0
"""Height of the flow, and of the scores below it, mm."""
PATCH, LARGEST, BAR = 0.36, 6.0, 0.05
"""Most of a column that a patch takes, the most of its side in mm, and half of what a node's bar takes of a column."""


@dataclass(frozen=True)
class Flow:
    """Tokens between the concepts of the layers of one model.

    counts   : (step, from, to) tokens by kind: `all`, and `foreground` where there are masks
    members  : (step, from) tokens in each concept, by kind
    identity : (layer, concept) which concept of the first layer it goes on from; a colour each
    patches  : by layer and concept what its centre looks like, square pictures
    """

    counts: Mapping[str, NDArray[np.int64]]
    members: Mapping[str, NDArray[np.int64]]
    identity: NDArray[np.int64]
    patches: Sequence[Sequence[Pixels]]

    @property
    def size(self) -> Floats:
        """Return (layer, concept) tokens; of the last layer those that arrive."""
        return np.concatenate([self.members["all"], self.counts["all"][-1].sum(axis=0)[None]]).astype(np.float64)

    @property
    def foreground(self) -> Floats | None:
        """Return (layer, concept) the share of foreground tokens, or None without masks."""
        if "foreground" not in self.members:
            return None
        own = np.concatenate([self.members["foreground"], self.counts["foreground"][-1].sum(axis=0)[None]])
        return own / np.maximum(self.size, 1)


def plot_flow(
    model: str,
    layers: Sequence[int],
    flow: Flow,
    tests: Mapping[str, Floats] | None,
    *,
    style: FigureStyle,
    controls: Sequence[str],
) -> Figure:
    """Draw the flow, and the bifurcation score of each step.

    tests : bifurcation, expected and p_corrected, (step,) each
    """
    rows = 1 if tests is None else 2
    height = HEIGHT + (TESTS if rows == 2 else 0) + 3 * style.line
    ratios = {"height_ratios": [HEIGHT, TESTS]} if rows == 2 else {}
    figure, axes = new_figure(rows, 1, style=style, height=height, controls=controls, sharex=True, gridspec_kw=ratios)
    axis = axes[0][0]
    column = (style.width - 14) / len(layers)
    side = min(PATCH * column, LARGEST)
    _draw_flow(axis, flow, across=side / column, down=side / HEIGHT, style=style)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_xlim(-0.25, len(layers) - 0.45)
    axis.set_title(f"{style.name(model)}: tokens that move from concept to concept", fontsize=style.font_size)
    axes[-1][0].set_xticks(range(len(layers)), [str(layer) for layer in layers])
    dark = "; dark part of a bar: share of foreground" if flow.foreground is not None else ""
    axis.set_ylabel(f"tokens, by concept{dark}", fontsize=style.small)
    axes[-1][0].set_xlabel("layer", fontsize=style.font_size)
    if tests is not None:
        _draw_tests(axes[1][0], tests, style=style)
    return figure


def _draw_flow(axis: Any, flow: Flow, *, across: float, down: float, style: FigureStyle) -> None:
    """Draw nodes and ribbons; a concept keeps its colour and, as far as possible, its height.

    across, down : side of a patch, as shares of a column's width and of the height
    """
    size, counts = flow.size, flow.counts["all"].astype(np.float64)
    n_layers, n_concepts = size.shape
    scale = max(0.2, 0.9 - 1.15 * down * n_concepts) / max(size.sum(axis=1).max(), 1)
    base = np.zeros_like(size)
    for layer in range(n_layers):
        order = np.argsort(flow.identity[layer])
        room = np.maximum(size[layer, order] * scale, 1.05 * down) + 0.1 * down
        base[layer, order] = np.concatenate([[0.0], np.cumsum(room)[:-1]])
    for step in range(n_layers - 1):
        leaving, arriving = base[step].copy(), base[step + 1].copy()
        for a in np.argsort(flow.identity[step]):
            for b in np.argsort(flow.identity[step + 1]):
                width = counts[step, a, b] * scale
                if width <= 0:
                    continue
                t = np.linspace(0, 1, 24)
                x = step + BAR + across + 0.03 + t * (1 - 2 * BAR - across - 0.03)
                low = leaving[a] + (arriving[b] - leaving[a]) * t * t * (3 - 2 * t)
                axis.fill_between(x, low, low + width, color=_colour(flow, step, a), alpha=0.45, linewidth=0)
                leaving[a] += width
                arriving[b] += width
    share = flow.foreground
    for layer in range(n_layers):
        for concept in range(n_concepts):
            low, height = base[layer, concept], max(size[layer, concept] * scale, 0.003)
            axis.fill_between([layer - BAR, layer + BAR], low, low + height, color=_colour(flow, layer, concept))
            if share is not None:
                axis.fill_between([layer, layer + BAR], low, low + share[layer, concept] * height, color="#222222")
            place = {"ha": "right", "va": "center", "fontsize": style.small}
            axis.text(layer - BAR - 0.02, low + height / 2, str(concept), **place)
            left = layer + BAR + 0.015
            box = (left, left + across, low, low + down)
            axis.imshow(flow.patches[layer][concept], extent=box, aspect="auto", interpolation="antialiased", zorder=3)
    axis.set_ylim(-0.02, float((base + np.maximum(size * scale, 1.05 * down)).max()) + 0.03)


def _colour(flow: Flow, layer: int, concept: int) -> str:
    return COLOURS[int(flow.identity[layer, concept]) % len(COLOURS)]


def _draw_tests(axis: Any, tests: Mapping[str, Floats], *, style: FigureStyle) -> None:
    middle = np.arange(len(tests["bifurcation"])) + 0.5
    axis.bar(middle, np.nan_to_num(tests["bifurcation"]), width=0.5, color="#999999", label="score")
    expected = {"color": "black", "markersize": 6, "label": "with masks of other images"}
    axis.plot(middle, tests["expected"], "_", **expected)
    columns = (tests[name] for name in ("bifurcation", "expected", "p_corrected"))
    for x, score, expected_score, p in zip(middle, *columns, strict=True):
        if np.isfinite(score):
            text = f"{p:.3f}".removeprefix("0")
            above = max(score, expected_score) if np.isfinite(expected_score) else score
            axis.text(x, above + 0.01, text, ha="center", va="bottom", fontsize=style.small)
    axis.set_ylim(0, 1.4 * max(float(np.nanmax(np.append(tests["bifurcation"], 0.1))), 0.1))
    axis.set_ylabel("bifurcation\n(number: p)", fontsize=style.small)
    axis.legend(fontsize=style.small, frameon=False, ncols=2, loc="upper right", borderpad=0)
