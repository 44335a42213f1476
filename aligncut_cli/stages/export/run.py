"""Writes one array of a store as one file, for those who want no Zarr: .npy, .npz, .csv or .parquet, with its ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import ExportParams, RunOptions, as_record
from aligncut_cli.stages.export.file import IDS, RECORD, FileWork, beside
from aligncut_cli.store.apart import keep_apart
from aligncut_cli.store.phases import run_phase
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import open_store
from aligncut_cli.store.run import Outcome

VERSION = 1
FORMATS = (".npy", ".npz", ".csv", ".parquet")


def run(store: Path, params: ExportParams, options: RunOptions, console: Console) -> Outcome:
    """Write FILE, a row per node, image, slot or voxel, and FILE.ids.csv, which says what each row is.

    returns : its path, with rows and columns
    raises  : UsageError for another ending, or an array, model or layer that is not there
    """
    ending = options.output.suffix.lower()
    if ending not in FORMATS:
        raise UsageError(
            f"{str(options.output)!r} does not say what to write", do=f"Let the name end in {', '.join(FORMATS)}."
        )
    if ending == ".parquet":
        from aligncut_cli.stages.export.write import require_pyarrow

        require_pyarrow()
    source = open_store(store)
    keep_apart([options.output, *(beside(options.output, end) for end in (IDS, RECORD))], [source.path], strict=True)
    identity = Identity(
        stage="export",
        version=VERSION,
        kind="folder",
        params=as_record(params),
        inputs=[source.as_input],
        extra={"format": ending},
        loose=["seed"],
    )
    with FileWork(identity, options) as work:
        if work.complete:
            return work.outcome()
        from aligncut_cli.stages.export.phases import ExportStage

        stage = ExportStage(work, source, params, console)
        phases = stage.phases()
        if not work.accept(replace(stage.plan(), phases={phase.name: len(phase.blocks) for phase in phases})):
            return work.outcome()
        for phase in phases:
            run_phase(work, phase, console)
        return stage.finish()
