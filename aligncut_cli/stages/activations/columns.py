"""What the table of `activations` is called and holds: the stage writes it and the report reads it."""

from __future__ import annotations

from aligncut_cli.maths.activations import ROWS

TABLE = "activations.csv"
MODEL, LAYER, ROI = "model", "layer", "roi"
FOREGROUND, BACKGROUND, DIFFERENCE = ROWS


def error_of(side: str) -> str:
    """Return the column of a mean's standard error."""
    return f"{side} error"


HEADER = [MODEL, LAYER, ROI, *(column for side in ROWS for column in (side, error_of(side)))]
PLOTS = ("activations", "difference")
"""Pictures of the same numbers, without the ending that their format gives them."""
