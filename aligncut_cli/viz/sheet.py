"""Lays labelled tiles out in rows: label maps over photos, contact sheets, similarity maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from aligncut_cli.controls import describe_controls
from aligncut_cli.viz.canvas import Canvas, Line, Pixels, Tile
from aligncut_cli.viz.fonts import shorten, text_width, widest_text, wrap_text
from aligncut_cli.viz.style import CONTROL, FigureStyle

GAP = 1.0
SIDE, LEAST_SIDE = 20.0, 9.0
"""Height of a tile, and below which rows break, mm."""


@dataclass(frozen=True)
class Row:
    """A label at the left and tiles, each with a caption above it.

    sharp : tiles whose pixels stay squares
    """

    label: str
    tiles: Sequence[tuple[str, Pixels]]


@dataclass(frozen=True)
class Key:
    """A colour and what it means."""

    colour: tuple[int, int, int]
    text: str


@dataclass(frozen=True)
class Scale:
    """A colour scale: colours from left to right, and what its ends and middle are called."""

    colours: Pixels
    ends: tuple[str, str, str]
    label: str


def draw_sheet(
    rows: Sequence[Row],
    *,
    title: str,
    style: FigureStyle,
    controls: Sequence[str],
    keys: Sequence[Key] = (),
    scale: Scale | None = None,
    sharp: bool = False,
) -> Canvas:
    """Draw rows of tiles under a title, then what their colours mean; a control is said in red.

    rows  : tiles of one row have one height; a row that does not fit the width is broken
    sharp : whether the tiles' pixels stay squares
    """
    canvas = Canvas(style)
    top = _write_head(canvas, title, controls)
    label = _label_width(rows, style)
    for row in rows:
        top = _draw_row(canvas, row, top, label, sharp=sharp)
    if scale is not None:
        top = _draw_scale(canvas, scale, top)
    canvas.height = _draw_keys(canvas, keys, top) + GAP
    return canvas


def _write_head(canvas: Canvas, title: str, controls: Sequence[str]) -> float:
    style = canvas.style
    top = GAP
    wide = style.width - 2 * GAP
    if controls:
        for text in wrap_text(describe_controls(controls), wide, style.font_size):
            canvas.lines.append(Line(GAP, top, text, style.font_size, CONTROL))
            top += style.line
    for text in wrap_text(title, wide, style.font_size):
        canvas.lines.append(Line(GAP, top, text, style.font_size))
        top += style.line
    return top + GAP / 2


def _label_width(rows: Sequence[Row], style: FigureStyle) -> float:
    lines = [line for row in rows for line in row.label.split("\n")]
    longest = widest_text(lines, style.font_size)
    return min(longest + 2 * GAP, 0.25 * style.width) if longest else GAP


def _draw_row(canvas: Canvas, row: Row, top: float, label: float, *, sharp: bool) -> float:
    """Draw a row, broken where its tiles would be too small; returns where the next begins."""
    style, room = canvas.style, canvas.style.width - label
    shape = [tile.shape[1] / tile.shape[0] for _, tile in row.tiles]
    widest = max(shape, default=1.0)
    per_line = len(shape)
    while per_line > 1 and room / per_line - GAP < LEAST_SIDE * widest:
        per_line -= 1
    if per_line:
        per_line = ceil(len(shape) / ceil(len(shape) / per_line))  # lines of about one length
    side = min(SIDE, (room / max(per_line, 1) - GAP) / widest)
    captions = style.line if any(caption for caption, _ in row.tiles) else 0.0
    begin = top
    for start in range(0, len(shape), max(per_line, 1)):
        left = label
        for caption, tile in row.tiles[start : start + per_line]:
            width = side * tile.shape[1] / tile.shape[0]
            canvas.lines.append(Line(left, top, shorten(caption, width + GAP, style.small), style.small))
            canvas.tiles.append(Tile(left, top + captions, width, side, tile, sharp))
            left += max(width, side * widest if widest < 2 else width) + GAP
        top += captions + side + GAP
    texts = row.label.split("\n")
    lines = [part for text in texts for part in wrap_text(text, label - 2 * GAP, style.font_size)]
    for number, line in enumerate(lines):
        canvas.lines.append(Line(GAP, begin + captions + number * style.line, line, style.font_size))
    return max(top, begin + captions + len(lines) * style.line + GAP)


def _draw_scale(canvas: Canvas, scale: Scale, top: float) -> float:
    style = canvas.style
    width = min(60.0, style.width / 2)
    canvas.tiles.append(Tile(GAP, top, width, style.line, scale.colours))
    for share, text, align in zip((0.0, 0.5, 1.0), scale.ends, ("left", "middle", "right"), strict=True):
        canvas.lines.append(Line(GAP + share * width, top + style.line + GAP / 4, text, style.small, align=align))
    left = width + 3 * GAP
    parts = wrap_text(scale.label, style.width - left - GAP, style.font_size)
    for number, part in enumerate(parts):
        canvas.lines.append(Line(left, top + number * style.line, part, style.font_size))
    return top + max(2, len(parts)) * style.line + GAP


def _draw_keys(canvas: Canvas, keys: Sequence[Key], top: float) -> float:
    style = canvas.style
    left, box = GAP, 0.8 * style.line
    for key in keys:
        width = box + 2 * GAP + text_width(key.text, style.small)
        if left > GAP and left + width > style.width:
            left, top = GAP, top + style.line
        canvas.tiles.append(Tile(left, top, box, box, np.full((2, 2, 3), key.colour, np.uint8), sharp=True))
        canvas.lines.append(Line(left + box + GAP / 2, top, key.text, style.small))
        left += width
    return top + (style.line if keys else 0)
