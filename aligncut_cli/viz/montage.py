"""Draws one photo and its coloured token grids as a labelled picture (Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from aligncut_cli.controls import describe_controls
from aligncut_cli.viz.canvas import Canvas, Line, Pixels, Tile
from aligncut_cli.viz.fonts import choose_font, shorten, text_width, widest_text, wrap_text
from aligncut_cli.viz.style import CONTROL, FigureStyle

GAP = 0.6
LEAST_WIDTH, MOST_HEIGHT = 9.0, 28.0
"""Width of a tile below which a model's layers are broken into several rows, and height, mm."""


def draw_montage(
    photo: Pixels,
    grids: Mapping[str, Sequence[tuple[int, Pixels]]],
    *,
    title: str,
    caption: str,
    style: FigureStyle,
    controls: Sequence[str],
) -> Canvas:
    """Draw the photo, then a tile per layer of every model, in one scale; every token keeps its colour.

    photo   : (H, W, 3), whose proportions are those of every tile
    grids   : for each model its (layer, (h, w, 3) colours), in order
    caption : what the colours mean, below the title
    returns : rows are labelled with the model, tiles with the layer; a control is said in red
    """
    canvas = Canvas(style)
    names = [style.name(name) for name in grids]
    label = min(0.2 * style.width, widest_text(names, style.font_size) + 3 * GAP)
    most = max(len(tiles) for tiles in grids.values())
    per_line = max(1, min(most, int((style.width - label) // (LEAST_WIDTH + GAP)) - 1))
    per_line = -(-most // -(-most // per_line))  # rows of about one length
    shape = photo.shape[1] / photo.shape[0]
    width = min((style.width - label) / (per_line + 1) - GAP, MOST_HEIGHT * shape)
    height = width / shape
    top = 2 * GAP
    head = [(describe_controls(controls), style.font_size, CONTROL)] if controls else []
    head += [(title, style.font_size, Line.colour), (caption, style.small, Line.colour)]
    for text, size, colour in head:
        for part in wrap_text(text, style.width - 2 * GAP, size):
            canvas.lines.append(Line(GAP, top, part, size, colour))
            top += style.line
    top += GAP
    small = style.small
    for index, (name, tiles) in enumerate(zip(names, grids.values(), strict=True)):
        canvas.lines.append(Line(GAP, top + style.line, shorten(name, label - GAP, style.font_size), style.font_size))
        if index == 0:
            canvas.tiles.append(Tile(label, top + style.line, width, height, photo))
        for start in range(0, len(tiles), per_line):
            for column, (layer, rgb) in enumerate(tiles[start : start + per_line], start=1):
                left = label + column * (width + GAP)
                text = f"layer {layer}" if width > text_width(f"layer {layer}", small) else str(layer)
                canvas.lines.append(Line(left, top, text, small))
                canvas.tiles.append(Tile(left, top + style.line, width, height, rgb, sharp=True))
            top += height + style.line + GAP
    canvas.height = top + GAP
    return canvas


def missing_photo(size: tuple[int, int]) -> Pixels:
    """Return a grey tile of (height, width) in the place of a photo that cannot be found."""
    canvas = Image.new("RGB", (size[1], size[0]), (225, 225, 225))
    font, text = choose_font("photo not found", 12)
    ImageDraw.Draw(canvas).text((size[1] // 2, size[0] // 2), text, font=font, fill=(40, 40, 40), anchor="mm")
    return np.asarray(canvas)
