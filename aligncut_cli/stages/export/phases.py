"""The computation of `export`: ids, then values, block by block."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.params import ExportParams
from aligncut_cli.stages.export.file import IDS, FileWork, beside
from aligncut_cli.stages.export.table import open_table
from aligncut_cli.stages.export.write import WRITERS, create_npy, write_ids, write_npy_rows
from aligncut_cli.store.phases import Phase, load_ahead, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan

PROCESS_BYTES = 300_000_000
ID_BYTES, NUMBER_BYTES, TEXT_BYTES = 60, 24, 80
"""Bytes of a row's ids in text, and of a cell while blocks are read ahead and written as numbers or as text."""


class ExportStage:
    """One run of the stage; a .npy goes on where it was stopped, the other formats are written in one step."""

    def __init__(self, work: FileWork, source: Store, params: ExportParams, console: Console) -> None:
        self.work, self.controls = work, collect_controls(source)
        self.table = open_table(source, params)
        self.file = work.staging / work.output.name
        self.ending = work.output.suffix.lower()
        sizes = [self.table.n_block_rows(block) for block in self.table.blocks]
        self.first_rows = [0, *itertools.accumulate(sizes)]

    def plan(self) -> Plan:
        """Return what a block needs, and the file with its ids."""
        rows, width = self.table.n_rows, len(self.table.columns)
        largest = max(map(self.table.n_block_rows, self.table.blocks), default=0)
        cell, cell_memory = (12, TEXT_BYTES) if self.ending == ".csv" else (4, NUMBER_BYTES)
        return Plan(
            memory=PROCESS_BYTES + largest * (width * cell_memory + 4 * ID_BYTES),
            disk=rows * (width * cell + ID_BYTES),
            notes={"array": self.table.name, "rows": rows, "columns": width},
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        begin = [single_step("ids", self._write_ids)]
        if self.ending in WRITERS:
            return [*begin, single_step("values", self._write_values)]
        blocks = Phase(
            "values",
            self.table.blocks,
            self._write_block,
            self.table.read,
            unit="rows",
            size=self.table.n_block_rows,
            label="export",
            parallel=True,
        )
        return [*begin, single_step("room", lambda: create_npy(self.file, self.table)), blocks]

    def _write_ids(self) -> None:
        write_ids(beside(self.file, IDS), self.table)

    def _write_block(self, index: int, block: Any, values: NDArray[np.float32]) -> None:
        write_npy_rows(self.file, self.first_rows[index], values, self.table)

    def _write_values(self) -> None:
        WRITERS[self.ending](self.file, self.table, load_ahead(self.table.blocks, self.table.read))

    def finish(self) -> Outcome:
        """Give the file and its ids their names."""
        table = self.table
        summary = {"array": table.name, "rows": table.n_rows, "columns": len(table.columns), "ids": list(table.ids)}
        return self.work.finish(summary=summary, controls=self.controls, columns=table.columns)
