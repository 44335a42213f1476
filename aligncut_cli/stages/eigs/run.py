"""Stage 3: eigenvectors of the product graph, solved on sampled nodes and carried to all (Eq. 3 and 4)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import EigsParams, RunOptions, as_record
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import Store, open_store
from aligncut_cli.store.run import Outcome, begin

VERSION = 1
BASIS_PARAMS = ("group", "n_eig", "n_sample", "sample", "roi", "top_channels", "orthogonalize")


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
        params = _params_of_basis(params, base, aligned)
    stores = [store for store in (source, aligned, base) if store is not None]
    identity = Identity(
        stage="eigs",
        version=VERSION,
        kind="eigs",
        params=as_record(params),
        inputs=[store.as_input for store in stores],
    )
    with begin(identity, options, inputs=[store.path for store in stores]) as work:
        if work.complete:
            return work.outcome()
        from aligncut_cli.stages.eigs.phases import EigsPhases

        return EigsPhases(work, source, aligned, base, params, options, console).run()


def _params_of_basis(params: EigsParams, base: Store, aligned: Store | None) -> EigsParams:
    """Take over what a basis has fixed, and require the alignment that it was made with."""
    recorded = base.record["params"]
    before = [item for item in base.record["inputs"] if item["kind"] == "alignment"]
    if [item["digest"] for item in before] != ([] if aligned is None else [aligned.as_input.digest]):
        raise UsageError(
            f"{base.path} was made {'with' if before else 'without'} an alignment, and this run is not alike",
            do=f"Give --alignment {before[0]['path']}" if before else "Leave out --alignment.",
        )
    return replace(params, **{name: recorded[name] for name in BASIS_PARAMS})
