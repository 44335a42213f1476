"""Draws one photo and its coloured token grids as a labelled picture (Fig. 4), and several such in an overview."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from aligncut_cli.controls import describe_controls
from aligncut_cli.viz.fonts import choose_font

Pixels = NDArray[np.uint8]
PAPER, INK, WARNING = (255, 255, 255), (40, 40, 40), (180, 30, 30)
GAP = 4


def write_line(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, **more: Any) -> None:
    """Write a line, (x, y) in pixels, in a font that has its letters."""
    font, drawable = choose_font(text, size)
    draw.text(at, drawable, font=font, **{"fill": INK, **more})


def colour_grid(rgb: Pixels, size: tuple[int, int]) -> Image.Image:
    """Enlarge a token grid to (height, width) pixels; every token keeps its colour, nothing is blended.

    rgb : (h, w, 3) colours of the patches, row by row
    """
    return Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.NEAREST)


def draw_montage(
    photo: Pixels,
    grids: Mapping[str, Sequence[tuple[int, Pixels]]],
    *,
    title: str,
    caption: str,
    controls: Sequence[str],
) -> Image.Image:
    """Draw the photo, then one row per model with a tile per layer, in one scale.

    photo   : (H, W, 3), whose size is that of every tile
    grids   : for each model its (layer, (h, w, 3) colours), in order
    caption : what the colours mean, below the title
    returns : the picture; rows are labelled with the model, tiles with the layer; a control is said in red
    """
    height, width = photo.shape[:2]
    text = max(10, height // 9)
    label = max(round(text * 0.62 * max(len(name) for name in grids)) + 2 * GAP, text)
    columns = 1 + max(len(tiles) for tiles in grids.values())
    across = label + columns * (width + GAP) + GAP
    small = text - 2
    lines = textwrap.wrap(caption, max(16, round((across - 2 * GAP) / (0.52 * small))))
    named = text + 2 * GAP + (text + GAP if controls else 0)
    head = named + len(lines) * (small + GAP)
    row = height + text + 2 * GAP
    canvas = Image.new("RGB", (across, head + len(grids) * row + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    write_line(draw, (GAP, GAP), title, text)
    if controls:
        write_line(draw, (GAP, 2 * GAP + text), describe_controls(controls), text, fill=WARNING)
    for at, line in enumerate(lines):
        write_line(draw, (GAP, named + at * (small + GAP)), line, small)
    for index, (name, tiles) in enumerate(grids.items()):
        top = head + index * row + text + GAP
        if index == 0:
            canvas.paste(Image.fromarray(photo), (label, top))
        write_line(draw, (GAP, top + height // 2), name, text, anchor="lm")
        for column, (layer, rgb) in enumerate(tiles, start=1):
            left = label + column * (width + GAP)
            write_line(draw, (left, top - GAP // 2), f"layer {layer}", small, anchor="lb")
            canvas.paste(colour_grid(rgb, (height, width)), (left, top))
    return canvas


def stack_pictures(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures under each other, left-aligned."""
    width = max(picture.width for picture in pictures)
    canvas = Image.new("RGB", (width, sum(picture.height for picture in pictures)), PAPER)
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def missing_photo(size: tuple[int, int]) -> Pixels:
    """Return a grey tile of (height, width) in the place of a photo that cannot be found."""
    canvas = Image.new("RGB", (size[1], size[0]), (225, 225, 225))
    draw = ImageDraw.Draw(canvas)
    write_line(draw, (size[1] // 2, size[0] // 2), "photo not found", 12, anchor="mm")
    return np.asarray(canvas)
