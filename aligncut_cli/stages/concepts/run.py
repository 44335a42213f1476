"""Stage 6: concepts of the map, their image patches and their activations in the brain's space (Fig. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import ConceptsParams, RunOptions, as_record
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import Store, open_store
from aligncut_cli.store.run import Outcome, Work

VERSION = 5


def run(
    tsne: Path,
    features: Path | None,
    alignment: Path | None,
    params: ConceptsParams,
    options: RunOptions,
    console: Console,
    *,
    controls: Sequence[Path] = (),
    photos: Path | str | None = None,
) -> Outcome:
    """Write a folder of tables, arrays and pictures that describe concepts; returns its path and figures.

    features, alignment : None, or an alignment without readout, to leave the brain out
    controls            : alignments to compare with, made with --control
    photos              : where to look first for photos that have moved
    """
    if params.radius is not None and not params.radius > 0:
        raise UsageError(f"a radius of {params.radius} holds no token", do="Give a --radius above 0.")
    source = open_store(tsne, "tsne")
    rows = None if features is None else open_store(features, "features")
    aligned = None if alignment is None else open_store(alignment, "alignment")
    against = [open_store(path, "alignment") for path in controls]
    stores = [store for store in (source, rows, aligned, *against) if store is not None]
    identity = Identity(
        stage="concepts",
        version=VERSION,
        kind="folder",
        params=as_record(params),
        inputs=[store.as_input for store in stores],
        extra=({} if photos is None else {"photos": str(photos)}) | ({} if not against else {"controls": len(against)}),
    )

    build = partial(_build, source, rows, aligned, against, params, photos)
    return run_stage(identity, options, console, inputs=[store.path for store in stores], build=build)


def _build(
    source: Store,
    features: Store | None,
    alignment: Store | None,
    against: Sequence[Store],
    params: ConceptsParams,
    photos: Path | str | None,
    work: Work,
) -> Stage:
    from aligncut_cli.stages.concepts.phases import ConceptsStage

    return ConceptsStage(work, source, features, alignment, against, params, photos=photos)
