"""Writes one page with every picture, table and plot that some stores allow; it opens from disk, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.params import ReportParams, RunOptions, as_record
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import Store, open_store
from aligncut_cli.store.run import Outcome, Work

VERSION = 3


def run(stores: Sequence[Path], params: ReportParams, options: RunOptions, console: Console) -> Outcome:
    """Write a folder with `index.html` and the pieces it loads; returns its path."""
    sources: dict[Path, Store] = {}
    for path in stores:
        store = open_store(path)
        if store.record.get("stage") == "report":
            raise BadInput(f"{path} is a report itself", do="Give the stores that it was made of.")
        sources.setdefault(path.resolve(), store)
    given = list(sources.values())
    identity = Identity(
        stage="report",
        version=VERSION,
        kind="folder",
        params=as_record(params),
        inputs=[store.as_input for store in given],
    )

    def build(work: Work) -> Stage:
        from aligncut_cli.stages.report.phases import ReportStage

        return ReportStage(work, given, params, console)

    return run_stage(identity, options, console, inputs=[store.path for store in given], build=build)
