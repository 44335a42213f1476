"""Stage 4: spectral t-SNE, which turns eigenvectors into colours (3-D) or a map (2-D)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.params import RunOptions, TsneParams, as_record
from aligncut_cli.stages.tsne.basis import take_params
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import Store, open_store
from aligncut_cli.store.run import Outcome, Work

VERSION = 5


def run(eigs: Path, params: TsneParams, options: RunOptions, console: Console, *, basis: Path | None = None) -> Outcome:
    """Write a tsne store for all nodes of an eigs store; returns its path and figures."""
    source = open_store(eigs, "eigs")
    base = None if basis is None else open_store(basis, "tsne")
    if base is not None:
        params = take_params(params, base)
    stores = [source] if base is None else [source, base]
    identity = Identity(
        stage="tsne",
        version=VERSION,
        kind="tsne",
        params=as_record(params),
        inputs=[store.as_input for store in stores],
    )

    build = partial(_build, source, base, params)
    return run_stage(identity, options, console, inputs=[store.path for store in stores], build=build)


def _build(source: Store, base: Store | None, params: TsneParams, work: Work) -> Stage:
    from aligncut_cli.stages.tsne.phases import TsneStage

    return TsneStage(work, source, base, params)
