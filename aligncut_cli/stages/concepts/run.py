"""Stage 6: concepts of the map, their image patches and their activations in the brain's space (Fig. 8)."""

from __future__ import annotations

from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import ConceptsParams, RunOptions, as_record
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import open_store
from aligncut_cli.store.run import Outcome, Work

VERSION = 1


def run(
    tsne: Path,
    features: Path,
    alignment: Path,
    params: ConceptsParams,
    options: RunOptions,
    console: Console,
    *,
    photos: Path | str | None = None,
) -> Outcome:
    """Write a folder of tables, arrays and pictures that describe concepts; returns its path and figures.

    photos : where to look first for photos that have moved
    """
    if params.radius is not None and not params.radius > 0:
        raise UsageError(f"a radius of {params.radius} holds no token", do="Give a --radius above 0.")
    source, rows = open_store(tsne, "tsne"), open_store(features, "features")
    aligned = open_store(alignment, "alignment")
    stores = [source, rows, aligned]
    identity = Identity(
        stage="concepts",
        version=VERSION,
        kind="folder",
        params=as_record(params),
        inputs=[store.as_input for store in stores],
        extra={} if photos is None else {"photos": str(photos)},
    )

    def build(work: Work) -> Stage:
        from aligncut_cli.stages.concepts.phases import ConceptsStage

        return ConceptsStage(work, source, rows, aligned, params, options, console, photos=photos)

    return run_stage(identity, options, console, inputs=[store.path for store in stores], build=build)
