"""A sheet of pictures and lines of text in millimetres, written as PNG by Pillow, as PDF or SVG by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.fonts import choose_font, find_font_file
from aligncut_cli.viz.style import MM_PER_INCH, FigureStyle

Pixels = NDArray[np.uint8]
INK, PAPER = "#282828", (255, 255, 255)


@dataclass(frozen=True)
class Line:
    """A line of text: its left, middle or right end and its upper edge, mm, and size in points."""

    x: float
    y: float
    text: str
    size: float
    colour: str = INK
    align: str = "left"


@dataclass(frozen=True)
class Tile:
    """A picture and where it is, mm; `sharp` keeps its pixels as squares when it is enlarged."""

    x: float
    y: float
    width: float
    height: float
    pixels: Pixels
    sharp: bool = False


@dataclass
class Canvas:
    """What is drawn, in order, on white.

    style  : its width is the canvas'
    height : mm
    """

    style: FigureStyle
    height: float = 0.0
    lines: list[Line] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write in the format that the path ends in."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            self.draw().save(path, dpi=(self.style.dpi, self.style.dpi))
        else:
            save_figure(self._plot(), path)

    def draw(self) -> Image.Image:
        """Return the canvas in pixels."""
        scale = self.style.dpi / MM_PER_INCH
        canvas = Image.new("RGB", (round(self.style.width * scale), max(1, round(self.height * scale))), PAPER)
        for tile in self.tiles:
            size = max(1, round(tile.width * scale)), max(1, round(tile.height * scale))
            way = Image.Resampling.NEAREST if tile.sharp else Image.Resampling.LANCZOS
            canvas.paste(Image.fromarray(tile.pixels).resize(size, way), (round(tile.x * scale), round(tile.y * scale)))
        pen = ImageDraw.Draw(canvas)
        for line in self.lines:
            font, text = choose_font(line.text, max(6, round(line.size * self.style.dpi / 72)))
            anchor = {"left": "la", "middle": "ma", "right": "ra"}[line.align]
            pen.text((round(line.x * scale), round(line.y * scale)), text, font=font, fill=line.colour, anchor=anchor)
        return canvas

    def _plot(self) -> Figure:
        """Return the canvas as a figure, whose letters stay letters."""
        width, height = self.style.width, max(self.height, 1.0)
        figure = Figure(figsize=(width / MM_PER_INCH, height / MM_PER_INCH), dpi=self.style.dpi)
        for tile in self.tiles:
            box = (tile.x / width, 1 - (tile.y + tile.height) / height, tile.width / width, tile.height / height)
            axis = figure.add_axes(box)
            axis.imshow(tile.pixels, aspect="auto", interpolation="nearest" if tile.sharp else "antialiased")
            axis.set_axis_off()
        for line in self.lines:
            _, text = choose_font(line.text, 16)
            font = FontProperties(fname=find_font_file(line.text), size=line.size)
            figure.text(
                line.x / width,
                1 - line.y / height,
                text,
                color=line.colour,
                ha="center" if line.align == "middle" else line.align,
                va="top",
                parse_math=False,
                fontproperties=font,
            )
        return figure


def stack_canvases(canvases: Sequence[Canvas]) -> Canvas:
    """Put canvases of one style under each other."""
    whole = Canvas(canvases[0].style)
    for canvas in canvases:
        whole.lines += [Line(**{**vars(line), "y": line.y + whole.height}) for line in canvas.lines]
        whole.tiles += [Tile(**{**vars(tile), "y": tile.y + whole.height}) for tile in canvas.tiles]
        whole.height += canvas.height
    return whole
