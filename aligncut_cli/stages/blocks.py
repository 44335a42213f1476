"""Blocks that the report's page draws: tables, heat maps and figures from CSV and pictures; stages' sections use them.

A block is a dict with `kind` (table, curves, bars, matrix, flow, figure) and what that kind needs; the page knows
nothing of stores. Numbers that are not finite are null.
"""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image

from aligncut_cli.errors import BadInput
from aligncut_cli.store.files import list_files
from aligncut_cli.store.provenance import FOLDER_RECORD
from aligncut_cli.store.read import Store

PageBlock = dict[str, Any]
Square = tuple[str, list[str], list[list[float | None]]]
"""A title, the names of rows and of columns alike, and the values."""
MOST_ROWS = 2000
MOST_FIGURES = 24


@dataclass(frozen=True)
class Section:
    """What one stage adds to the page.

    id, title, lead : of the section
    describe        : makes its blocks of one store, copying files into the report
    wanted          : whether a store is one of those it describes
    overview        : makes blocks of all that it describes, shown first where they are several
    """

    id: str
    title: str
    lead: str
    describe: Callable[[Store, Files], list[PageBlock]]
    wanted: Callable[[Store], bool]
    overview: Callable[[Sequence[Store]], list[PageBlock]] | None = None


def name_of(store: Store) -> str:
    """Return what a store is called in headings: its file's name."""
    return store.path.resolve().name.removesuffix(".zarr")


class Files:
    """Files that are copied into the report, named by number."""

    def __init__(self, staging: Path) -> None:
        self.staging = staging
        self.counts = {"tables": 0, "figures": 0}

    def copy(self, file: Path, folder: str) -> str:
        """Copy a file to `tables` or `figures` and return its path from the page."""
        name = f"{folder}/{self.counts[folder]}{file.suffix.lower()}"
        self.counts[folder] += 1
        shutil.copyfile(file, self.staging / name)
        return name


def table_block(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]], **more: Any) -> PageBlock:
    """Make a table; a column whose cells are all numbers or empty sorts as numbers."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in cells) for i in range(len(header))]
    return {"kind": "table", "title": title, "header": list(header), "numeric": numeric, "rows": cells, **more}


def _cell(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else None


def describe_folder(
    store: Store,
    files: Files,
    leave_out: Collection[str] = (),
    *,
    only: Collection[str] | None = None,
    describe_squares: Callable[[list[Square]], list[PageBlock]] | None = None,
    captions: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> list[PageBlock]:
    """Every CSV as a heat map where it is a square of like rows and columns, else as a table; every PNG as it is.

    leave_out        : names of pictures that are drawn otherwise
    only             : names of the pictures to show, where not all
    describe_squares : makes the blocks of squares; where given, no picture is shown beside them, because the pictures
                       are the same heat maps
    captions         : title and text by the title that a picture's name gives
    """
    blocks: list[PageBlock] = []
    names = [name for name, ordinary in list_files(store.path).items() if ordinary]  # what a link leads to is not shown
    found = sorted(store.path / name for name in names if Path(name).name != FOLDER_RECORD)
    squares: list[Square] = []
    for path in (p for p in found if p.suffix.lower() == ".csv"):
        title = _title(path, store)
        square = read_square(path)
        if square is not None:
            squares.append((title, *square))
        else:
            blocks.append(_csv_table(path, title, files))
    squares.sort(key=lambda square: "before" not in square[0])
    if squares:
        describe = describe_squares or (lambda found: [square_block(found[0][0], found)])
        blocks = [*describe(squares), *blocks]
    pictures = [p for p in found if p.suffix.lower() == ".png" and p.name not in leave_out]
    if only is not None:
        pictures = [p for p in pictures if p.name in only]
    if squares and describe_squares is not None:
        pictures = []
    figures = [_figure(path, store, files, captions) for path in pictures[:MOST_FIGURES]]
    left = len(pictures) - len(figures)
    if left > 0:
        figures[-1]["about"] = f"{left} more pictures are in {store.path}."
    return [*figures, *blocks]


def _title(path: Path, store: Store) -> str:
    return path.relative_to(store.path).with_suffix("").as_posix().replace("-", " ").replace("_", " ")


def _figure(path: Path, store: Store, files: Files, captions: Mapping[str, tuple[str, str]]) -> PageBlock:
    title = _title(path, store)
    title, about = captions.get(title, (title, ""))
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except OSError as error:
        raise BadInput(f"{path} is not a readable picture", do="Make the folder again.") from error
    return {
        "kind": "figure",
        "title": title,
        "about": about,
        "file": files.copy(path, "figures"),
        "alt": f"{title}, drawn by aligncut {store.record.get('stage')}. {about}".strip(),
        "width": width,
        "height": height,
    }


def read_square(path: Path) -> tuple[list[str], list[list[float | None]]] | None:
    """Return labels and values of a CSV whose rows and columns have the same names, else None."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    if len(rows) < 2:
        return None
    labels = [name for name in rows[0][1:] if name != "control"]
    if len(labels) < 2 or [row[0] for row in rows[1:] if row] != labels:
        return None
    values = [[parse_cell(text) for text in row[1 : 1 + len(labels)]] for row in rows[1:]]
    return labels, [[x if isinstance(x, int | float) else None for x in row] for row in values]


def square_block(title: str, squares: list[Square], about: str = "") -> PageBlock:
    """Show squares side by side as heat maps in one scale."""
    panels = [{"title": name, "rows": labels, "columns": labels, "values": values} for name, labels, values in squares]
    known = [x for panel in panels for row in panel["values"] for x in row if isinstance(x, float)]
    return {
        "kind": "matrix",
        "title": title,
        "about": about,
        "panels": panels,
        "low": -1 if min(known, default=0) < -0.2 else 0,
        "high": 1,
    }


def _csv_table(path: Path, title: str, files: Files) -> PageBlock:
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        rows: list[list[Any]] = []
        more = 0
        for row in reader:
            if len(rows) < MOST_ROWS:
                rows.append([parse_cell(text) for text in [*row, *[""] * len(header)][: len(header)]])
            else:
                more += 1
    about = f"The first {MOST_ROWS:,} of {MOST_ROWS + more:,} rows; the file holds all." if more else ""
    return table_block(title, header, rows, about=about, file=files.copy(path, "tables"), open=len(rows) <= 30)


def parse_cell(text: str) -> str | int | float | None:
    """Read a cell of a CSV as a number where it is one; empty and not finite become None."""
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return None
    return int(text) if text.lstrip("+-").isdigit() else value
