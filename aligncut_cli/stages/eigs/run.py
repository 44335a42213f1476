"""Stage 3: eigenvectors of the product graph, solved on sampled nodes and carried to all (Eq. 3 and 4)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.params import EigsParams, RunOptions, as_record
from aligncut_cli.stages.eigs.basis import take_params
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import Store, open_store
from aligncut_cli.store.run import Outcome, Work

VERSION = 2


def run(
    features: Path,
    params: EigsParams,
    options: RunOptions,
    console: Console,
    *,
    alignment: Path | None = None,
    basis: Path | None = None,
) -> Outcome:
    """Write an eigs store for all nodes of a features store; returns its path and figures."""
    source = open_store(features, "features")
    aligned = None if alignment is None else open_store(alignment, "alignment")
    base = None if basis is None else open_store(basis, "eigs")
    if base is not None:
        params = take_params(params, base, aligned)
    stores = [store for store in (source, aligned, base) if store is not None]
    identity = Identity(
        stage="eigs",
        version=VERSION,
        kind="eigs",
        params=as_record(params),
        inputs=[store.as_input for store in stores],
    )

    build = partial(_build, source, aligned, base, params)
    return run_stage(identity, options, console, inputs=[store.path for store in stores], build=build)


def _build(source: Store, aligned: Store | None, base: Store | None, params: EigsParams, work: Work) -> Stage:
    from aligncut_cli.stages.eigs.phases import EigsStage

    return EigsStage(work, source, aligned, base, params)
