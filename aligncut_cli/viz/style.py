"""How figures are printed: format, width, resolution, size of letters, and what models are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MM_PER_INCH = 25.4
LEAST_POINTS = 5.0
"""Letters below this size are not read in print."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#332288", "#661100")
"""Six of Okabe and Ito's colours and two dark ones of Paul Tol's, told apart without red or green cones too.

Okabe and Ito's black is the text's, and their yellow is too pale for lines on white.
"""
FOREGROUND, BACKGROUND = "#d55e00", "#0072b2"
CONTROL = "#b41e1e"
"""What a control is said in."""


@dataclass(frozen=True)
class FigureStyle:
    """How every figure of a run looks.

    format    : png, pdf or svg
    width     : of a figure in print, mm
    dpi       : of PNG, and of pictures inside PDF and SVG
    font_size : of labels, points; what is small is a little smaller, nothing is larger
    names     : what models are called, by the names they have in stores
    """

    format: str
    width: float
    dpi: int
    font_size: float
    names: Mapping[str, str]

    @property
    def small(self) -> float:
        """Return the size of ticks and notes, points."""
        return max(LEAST_POINTS, 0.85 * self.font_size)

    @property
    def line(self) -> float:
        """Return the height of a line of labels, mm."""
        return 1.35 * self.font_size * MM_PER_INCH / 72

    def name(self, model: str) -> str:
        """Return what a model is called."""
        return self.names.get(model, model)

    def slot(self, slot: str) -> str:
        """Return what MODEL:LAYER is called."""
        model, colon, layer = slot.rpartition(":")
        return f"{self.name(model)}{colon}{layer}"

    def columns(self, count: int, *, least: float, beside: float = 0.0) -> int:
        """Return how many of some panels stand side by side.

        least  : width of one, mm
        beside : what stands beside them, mm
        """
        return max(1, min(count, int((self.width - beside) // least)))

    def file(self, folder: Path, name: str) -> Path:
        """Return the path of a figure."""
        return folder / f"{name}.{self.format}"
