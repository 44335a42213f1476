"""Lays labelled tiles out in rows: label maps over photos, contact sheets, similarity maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from aligncut_cli.controls import describe_controls
from aligncut_cli.viz.montage import GAP, PAPER, WARNING, Pixels, write_line


@dataclass(frozen=True)
class Row:
    """A label at the left and tiles, each with a caption above it."""

    label: str
    tiles: Sequence[tuple[str, Pixels]]


def draw_sheet(rows: Sequence[Row], *, title: str, controls: Sequence[str]) -> Image.Image:
    """Draw rows of tiles under a title; a control is said in red.

    rows : tiles of one row have one height
    """
    text = 13
    labels = [row.label.split("\n") for row in rows]
    label = max((max(map(len, lines)) for lines in labels), default=0) * text * 3 // 5 + 2 * GAP
    heights = [max((tile.shape[0] for _, tile in row.tiles), default=0) + text + 3 * GAP for row in rows]
    widths = [sum(_tile_width(caption, tile, text) + GAP for caption, tile in row.tiles) for row in rows]
    head = text + 3 * GAP + (text + GAP if controls else 0)
    canvas = Image.new("RGB", (max(label + max(widths, default=0), len(title) * text * 3 // 5) + GAP,
                               head + sum(heights) + GAP), PAPER)  # fmt: skip
    draw = ImageDraw.Draw(canvas)
    write_line(draw, (GAP, GAP), title, text)
    if controls:
        write_line(draw, (GAP, 2 * GAP + text), describe_controls(controls), text, fill=WARNING)
    top = head
    for row, lines, height in zip(rows, labels, heights, strict=True):
        middle = top + text + (height - text) // 2
        write_line(draw, (GAP, middle), "\n".join(lines), text, anchor="lm")
        left = label
        for caption, tile in row.tiles:
            write_line(draw, (left, top + text), caption, text - 2, anchor="ls")
            canvas.paste(Image.fromarray(tile), (left, top + text + GAP))
            left += _tile_width(caption, tile, text) + GAP
        top += height
    return canvas


def _tile_width(caption: str, tile: Pixels, text: int) -> int:
    return max(int(tile.shape[1]), round(len(caption) * text * 0.52))


def label_colours(count: int) -> Pixels:
    """Return (count, 3) colours of label indices, PASCAL VOC's map: 0 is black, neighbours differ strongly."""
    index = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> channel) & 1) << (7 - bit)).astype(np.uint8)
        index = index >> 3
    return colours


def indexed_picture(labels: NDArray[np.integer]) -> Image.Image:
    """Return a palette picture whose values are the labels, negative ones as 255, in PASCAL VOC's colours.

    labels : (h, w), at most 254
    """
    picture = Image.fromarray(np.where(labels < 0, 255, labels).astype(np.uint8), mode="P")
    colours = label_colours(256)
    colours[255] = (224, 224, 192)
    picture.putpalette(colours.tobytes())
    return picture


def blend_labels(photo: Pixels, labels: NDArray[np.integer]) -> Pixels:
    """Lay labels over a photo in grey: 0, the background, as a shade, others in colour; negative ones stay a photo.

    photo  : (h, w, 3)
    labels : (h, w)
    """
    colours = label_colours(int(labels.max(initial=0)) + 1)[np.maximum(labels, 0)]
    grey = photo.mean(axis=2, keepdims=True)
    share = np.where(labels == 0, 0.25, 0.55)[..., None]
    mixed = np.where(labels[..., None] < 0, photo, share * colours + (1 - share) * grey)
    return np.round(mixed).astype(np.uint8)
