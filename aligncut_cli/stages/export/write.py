"""Writes blocks of rows as .npy (each in its place), .npz, .csv or .parquet; the bytes depend on the rows alone."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import UsageError
from aligncut_cli.stages.export.table import Table, write_cells

DIGITS = "%.9g"
"""As many as tell every float32 from its neighbours."""
VALUES, COLUMNS = "values.npy", "columns.npy"


def require_pyarrow() -> None:
    """Refuse .parquet where pyarrow is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError(
            "a .parquet file needs pyarrow, which is not installed",
            do="pip install 'aligncut[parquet]', or give a name that ends in .csv or .npy.",
        )


def _write_header(file: IO[bytes], table: Table) -> None:
    shape = (table.n_rows, len(table.columns))
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})


def create_npy(path: Path, table: Table) -> None:
    """Write the header of a .npy of the table's shape, with room for all rows after it."""
    with path.open("wb") as file:
        _write_header(file, table)
        file.truncate(file.tell() + table.n_rows * len(table.columns) * 4)


def write_npy_rows(path: Path, first: int, values: NDArray[np.float32], table: Table) -> None:
    """Write rows (row, column) of such a file in their place, `first` being the first row's index."""
    size = path.stat().st_size - table.n_rows * len(table.columns) * 4
    with path.open("r+b") as file:
        file.seek(size + first * len(table.columns) * 4)
        file.write(values.astype("<f4", copy=False).data)


def write_npz(path: Path, table: Table, blocks: Iterator[tuple[Any, NDArray[np.float32]]]) -> None:
    """Write `values` (row, column) float32 and `columns`, the columns' names; streamed, not compressed."""
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(zipfile.ZipInfo(VALUES), "w", force_zip64=True) as file:
            _write_header(file, table)
            for _, values in blocks:
                file.write(values.astype("<f4", copy=False).data)
        with archive.open(zipfile.ZipInfo(COLUMNS), "w") as file:
            np.lib.format.write_array(file, np.array(table.columns), allow_pickle=False)


def write_csv(path: Path, table: Table, blocks: Iterator[tuple[Any, NDArray[np.float32]]]) -> None:
    """Write a line per row, its ids first; a block is formatted at once."""
    mark = "\0"  # no file name holds it, so no id does
    numbers = "," + ",".join([DIGITS] * len(table.columns)) + "\n"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(write_cells([*table.ids, *table.columns]) + "\n")
        for block, values in blocks:
            template = table.id_lines(block, mark).replace("%", "%%").replace(mark, numbers)
            file.write(template % tuple(values.ravel().tolist()))


def write_parquet(path: Path, table: Table, blocks: Iterator[tuple[Any, NDArray[np.float32]]]) -> None:
    """Write a row group per block: the ids' columns, then the values' as float32."""
    import pyarrow
    import pyarrow.parquet

    writer = None
    try:
        for block, values in blocks:
            names = [*table.ids, *table.columns]
            columns = [*(column.tolist() for column in table.id_columns(block)), *np.ascontiguousarray(values.T)]
            batch = pyarrow.table(dict(zip(names, map(pyarrow.array, columns), strict=True)))
            if writer is None:
                writer = pyarrow.parquet.ParquetWriter(path, batch.schema)
            writer.write_table(batch)
    finally:
        if writer is not None:
            writer.close()


def write_ids(path: Path, table: Table) -> None:
    """Write what each row is, a line per row under a line of names."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(write_cells(table.ids) + "\n")
        for block in table.blocks:
            file.write(table.id_lines(block, "\n"))


WRITERS = {".npz": write_npz, ".csv": write_csv, ".parquet": write_parquet}
