"""Compares the same tokens between every pair of slots, before and after alignment (Fig. 3), and by CKA and CCA."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.params import CompareParams, RunOptions, as_record
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import Store, open_store
from aligncut_cli.store.run import Outcome, Work

VERSION = 4


def run(
    features: Path,
    params: CompareParams,
    options: RunOptions,
    console: Console,
    *,
    alignment: Path | None = None,
) -> Outcome:
    """Write a folder of cosines, CKA and canonical correlations by slot, as CSV and pictures; returns its path."""
    source = open_store(features, "features")
    fitted = None if alignment is None else open_store(alignment, "alignment")
    stores = [source] if fitted is None else [source, fitted]
    identity = Identity(
        stage="compare",
        version=VERSION,
        kind="folder",
        params=as_record(params),
        inputs=[store.as_input for store in stores],
    )

    build = partial(_build, source, fitted, params)
    return run_stage(identity, options, console, inputs=[store.path for store in stores], build=build)


def _build(source: Store, fitted: Store | None, params: CompareParams, work: Work) -> Stage:
    from aligncut_cli.stages.compare.phases import CompareStage

    return CompareStage(work, source, fitted, params)
