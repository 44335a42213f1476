"""Where files go in an output folder: never out of it, whatever an image is called."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from aligncut_cli.errors import BadInput


def file_for_image(folder: Path, image_id: str, suffix: str) -> Path:
    """Return `folder/<image id><suffix>` and make its parent; ids may hold folders of their own.

    raises : BadInput where the id would lead out of the folder
    """
    parts = PurePosixPath(image_id).parts
    if not parts or image_id.startswith("/") or any(part in ("..", ".") or "\0" in part for part in parts):
        raise BadInput(f"the image id {image_id!r} is not a name inside a folder", do="Make the store again.")
    path = folder.joinpath(*parts[:-1], parts[-1] + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would compute."""


def plain_cell(value: object) -> object:
    """Return what a CSV cell holds: empty for None and NaN, numbers as they are, text that none takes for a formula."""
    if value is None or value != value:
        return ""
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]], *, controls: Sequence[str]) -> None:
    """Write a table as CSV; a control says so in a column of its own, so that no row can be taken for the real thing.

    rows     : None and NaN become empty cells, and text that a spreadsheet would compute gets a leading '
    controls : as in the record of the store that the table is made from
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(map(plain_cell, [*header, *(["control"] if controls else [])]))
        for row in rows:
            writer.writerow(map(plain_cell, [*row, *(["; ".join(controls)] if controls else [])]))
