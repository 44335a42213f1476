"""Stage 6: concepts of the map, their image patches and their activations in the brain's space (Fig. 8)."""

from __future__ import annotations

from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import ConceptsParams, RunOptions, as_record
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import open_store
from aligncut_cli.store.run import Outcome, begin

VERSION = 1


def run(
    tsne: Path, features: Path, alignment: Path, params: ConceptsParams, options: RunOptions, console: Console
) -> Outcome:
    """Write a folder of tables, arrays and pictures that describe concepts; returns its path and figures."""
    if params.radius is not None and not params.radius > 0:
        raise UsageError(f"a radius of {params.radius} holds no token", do="Give a --radius above 0.")
    source, rows, aligned = (
        open_store(tsne, "tsne"),
        open_store(features, "features"),
        open_store(alignment, "alignment"),
    )
    stores = [source, rows, aligned]
    identity = Identity(
        stage="concepts",
        version=VERSION,
        kind="folder",
        params=as_record(params),
        inputs=[store.as_input for store in stores],
    )
    with begin(identity, options, inputs=[store.path for store in stores]) as work:
        if work.complete:
            return work.outcome()
        from aligncut_cli.stages.concepts.phases import ConceptsPhases

        return ConceptsPhases(work, source, rows, aligned, params, options, console).run()
