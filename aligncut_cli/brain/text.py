"""Reads tables of text with commas, semicolons or tabs: cells by row, and which column names the images."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aligncut_cli.errors import BadInput
from aligncut_cli.images.guard import BLANK, read_text, reading

DELIMITERS = "\t;,"
NAME_COLUMNS = (
    "id", "image", "image_id", "imageid", "image_name", "path", "image_path", "filename", "file_name", "file",
    "image_file", "imagename", "img", "img_id", "picture", "photo", "stimulus", "stimulus_id", "stimulus_name",
    "stimulus_file", "stim", "stim_id", "stim_file", "stimuli", "name", "nsdid", "nsd_id", "73kid",
)  # fmt: skip


@dataclass(frozen=True)
class TextTable:
    """Cells of a table of text.

    header : lower-case names of the columns, or None where the first row is like the others
    rows   : as many cells in each row as in the file
    """

    header: list[str] | None
    rows: list[list[str]]

    def column(self, *names: str) -> int | None:
        """Return the first column that has one of these names."""
        header = self.header or []
        return next((header.index(name) for name in names if name in header), None)


def read_text_table(path: Path) -> TextTable:
    """Read a CSV in UTF-8; blank rows are left out, and a header is known by a name that columns of images have."""
    lines = read_text(path, "a CSV file", do="Save it as a table of text, one row per line: .csv or .tsv.").split("\n")
    with reading(path, "a CSV file"):
        cells = csv.reader(lines, delimiter=_find_delimiter(lines), strict=True)
        rows = [[cell.strip(BLANK) for cell in row] for row in cells if any(cell.strip(BLANK) for cell in row)]
    if not rows:
        raise BadInput(f"{path}: names no images: it has no rows.")
    header = [re.sub(r"[\s-]+", "_", cell.lower()) for cell in rows[0]]
    if any(name in header for name in (*NAME_COLUMNS, "subject1_rep0")):
        return TextTable(header, rows[1:])
    return TextTable(None, rows)


def _find_delimiter(lines: Sequence[str]) -> str:
    """Return what stands in every line; a comma where nothing does, since there is one column then."""
    filled = [line for line in lines if line.strip(BLANK)]
    return next((mark for mark in DELIMITERS if filled and all(mark in line for line in filled)), ",")


def to_number(cell: str) -> float:
    """Read a number, with a decimal comma too; what is missing is NaN.

    raises : ValueError where it is none
    """
    if cell.lower() in ("", "na", "n/a", "null", "none"):
        return float("nan")
    try:
        return float(cell)
    except ValueError:
        return float(cell.replace(",", "."))
