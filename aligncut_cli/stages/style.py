"""Reads how figures shall look from a stage's parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from aligncut_cli.errors import UsageError
from aligncut_cli.params import FigureParams, as_record
from aligncut_cli.viz.style import MM_PER_INCH, FigureStyle

UNITS = {"mm": 1.0, "cm": 10.0, "in": MM_PER_INCH}
NARROWEST, WIDEST = 40.0, 1000.0
STYLE_PARAMS = tuple(item.name for item in fields(FigureParams) if item.name != "seed")
"""Parameters of how figures look, which are no cause of what a store holds."""


def read_style(params: FigureParams, models: Sequence[str]) -> FigureStyle:
    """Return how figures look.

    models : that there are
    raises : UsageError where a width has no unit, or a name is of no model
    """
    names: dict[str, str] = {}
    for text in params.names:
        model, equals, label = text.partition("=")
        if not equals or not label.strip():
            raise UsageError(f"--names {text!r} names nothing", do='Write --names MODEL="What it is called".')
        if model not in models:
            raise UsageError(f"--names {text!r}: there is no model {model!r}", do=f"There are: {', '.join(models)}.")
        names[model] = label.strip()
    return FigureStyle(params.format, _read_width(params.width), params.dpi, params.font_size, names)


def _read_width(text: str) -> float:
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*(mm|cm|in)\s*", text)
    if not found:
        raise UsageError(f"--width {text!r} cannot be read", do="Write a number with its unit: 85mm, 18cm or 3.3in.")
    width = float(found[1]) * UNITS[found[2]]
    if not NARROWEST <= width <= WIDEST:
        raise UsageError(f"--width {text} is {width:g} mm", do=f"Take {NARROWEST:g} to {WIDEST:g} mm.")
    return width


def style_record(params: FigureParams) -> dict[str, Any]:
    """Return what the record of a folder of figures keeps of how they look."""
    record = as_record(params)
    return {name: record[name] for name in STYLE_PARAMS}
