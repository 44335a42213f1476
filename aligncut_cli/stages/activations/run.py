"""Activations in the brain's space: figure against ground (Fig. 6, 7, 16), channels (Fig. 2), one token to all."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import ActivationsParams, RunOptions, as_record
from aligncut_cli.stages.inputs import MASK_PARAMS, open_mask_input, require_background
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import Store, open_store
from aligncut_cli.store.run import Outcome, Work

if TYPE_CHECKING:
    from aligncut_cli.masks import MaskSet

VERSION = 5


def run(
    features: Path,
    alignment: Path,
    params: ActivationsParams,
    options: RunOptions,
    console: Console,
    *,
    masks: Path | None = None,
    classes: Path | None = None,
    photos: Path | str | None = None,
) -> Outcome:
    """Write a folder of tables and pictures; returns its path and figures.

    photos : where to look first for photos that have moved
    """
    if masks is None and not params.token and not params.channels:
        raise UsageError("nothing says what to compare", do="Give --masks DIR, or --token IMAGE:ROW,COL --slot clip:5.")
    if bool(params.token) != (params.slot is not None):
        raise UsageError("--token and --slot go together", do="Give both, such as --token cat:6,7 --slot clip:5.")
    source, aligned = open_store(features, "features"), open_store(alignment, "alignment")
    stores = [source, aligned]
    truth = open_mask_input(masks, params, classes=classes, console=console)
    require_background(truth.masks)
    identity = Identity(
        stage="activations",
        version=VERSION,
        kind="folder",
        params=as_record(params),
        inputs=[*(store.as_input for store in stores), *truth.records],
        extra={"masks_format": truth.format} | ({} if photos is None else {"photos": str(photos)}),
        loose=[*MASK_PARAMS, "seed"],
    )

    build = partial(_build, source, aligned, truth.masks, params, photos)
    return run_stage(identity, options, console, inputs=[store.path for store in stores], build=build)


def _build(
    source: Store,
    aligned: Store,
    masks: MaskSet | None,
    params: ActivationsParams,
    photos: Path | str | None,
    work: Work,
) -> Stage:
    from aligncut_cli.stages.activations.phases import ActivationsStage

    return ActivationsStage(work, source, aligned, masks, params, photos=photos)
