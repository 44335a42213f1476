"""Activations in the brain's space: foreground against background (Fig. 6, 7, 16), and similarity to one token."""

from __future__ import annotations

from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import ActivationsParams, RunOptions, as_record
from aligncut_cli.stages.inputs import open_mask_input
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import open_store
from aligncut_cli.store.run import Outcome, begin

VERSION = 1


def run(
    features: Path,
    alignment: Path,
    params: ActivationsParams,
    options: RunOptions,
    console: Console,
    *,
    masks: Path | None = None,
    classes: Path | None = None,
) -> Outcome:
    """Write a folder of tables and pictures; returns its path and figures."""
    if masks is None and not params.token:
        raise UsageError("nothing says what to compare", do="Give --masks DIR, or --token IMAGE:ROW,COL --slot clip:5.")
    if bool(params.token) != (params.slot is not None):
        raise UsageError("--token and --slot go together", do="Give both, such as --token cat:6,7 --slot clip:5.")
    source, aligned = open_store(features, "features"), open_store(alignment, "alignment")
    stores = [source, aligned]
    truth = open_mask_input(masks, format=params.masks_format, classes=classes)
    identity = Identity(
        stage="activations",
        version=VERSION,
        kind="folder",
        params=as_record(params),
        inputs=[*(store.as_input for store in stores), *truth.records],
        extra={"masks_format": truth.format},
        loose=["masks_format", "seed"],
    )
    with begin(identity, options, inputs=[store.path for store in stores]) as work:
        if work.complete:
            return work.outcome()
        from aligncut_cli.stages.activations.phases import ActivationsPhases

        return ActivationsPhases(work, source, aligned, truth.masks, params, options, console).run()
