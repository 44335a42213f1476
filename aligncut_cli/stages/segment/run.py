"""Stage 5: a segment for every token, by an oracle that knows the masks (Appendix C.4) or by clustering; and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import RunOptions, SegmentParams, as_record
from aligncut_cli.stages.inputs import MASK_PARAMS, open_mask_input
from aligncut_cli.stages.segment.runs import Run, open_run
from aligncut_cli.stages.style import STYLE_PARAMS, style_record
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import open_store
from aligncut_cli.store.run import Outcome, Work

if TYPE_CHECKING:
    from aligncut_cli.masks import MaskSet

VERSION = 3
FIGURES_VERSION = 3
LOOSE = (*MASK_PARAMS, *STYLE_PARAMS, "pictures")


def run(
    eigs: Sequence[str],
    params: SegmentParams,
    options: RunOptions,
    console: Console,
    *,
    masks: Path | None = None,
    classes: Path | None = None,
    figures: Path | None = None,
    photos: Path | str | None = None,
) -> Outcome:
    """Write a segments store, and a folder of tables and pictures where one is asked for; returns the store's path.

    eigs   : paths, or NAME=PATH; labels are kept of the first, scores of all
    photos : where the pictures look first for photos that have moved
    """
    runs = [open_run(argument) for argument in eigs]
    params = replace(params, clusters=tuple(sorted(set(params.clusters), reverse=True)))
    if masks is None and not params.clusters:
        raise UsageError(
            "nothing says what the segments are",
            do="Give --masks DIR to score against ground truth, or --clusters K to cut without it.",
        )
    if masks is None and len(runs) > 1:
        raise UsageError("several eigs stores can only be compared by a score", do="Give --masks DIR.")
    truth = open_mask_input(masks, params, classes=classes, console=console)
    identity = Identity(
        stage="segment",
        version=VERSION,
        kind="segments",
        params=as_record(params),
        inputs=[*(run.store.as_input for run in runs), *truth.records],
        extra={
            "masks_format": truth.format,
            "runs": [run.name for run in runs] if len(runs) > 1 else [],
        },
        loose=LOOSE,
    )

    build = partial(_build, runs, truth.masks, params)
    outcome = run_stage(identity, options, console, inputs=[run.store.path for run in runs], build=build)
    if figures is not None and outcome.plan is None:
        draw(outcome.path, truth.masks, params, replace(options, output=figures), console, photos=photos)
        console.note(f"tables and pictures are in {figures}")
    return outcome


def _build(runs: Sequence[Run], masks: MaskSet | None, params: SegmentParams, work: Work) -> Stage:
    from aligncut_cli.stages.segment.phases import SegmentStage

    return SegmentStage(work, runs, masks, params)


def draw(
    segments: Path,
    masks: MaskSet | None,
    params: SegmentParams,
    options: RunOptions,
    console: Console,
    *,
    photos: Path | str | None = None,
) -> Outcome:
    """Write CSV tables, plots and overlays of a segments store to a folder; returns its path."""
    source = open_store(segments, "segments")
    identity = Identity(
        stage="segment --figures",
        version=FIGURES_VERSION,
        kind="folder",
        params={"pictures": params.pictures, **style_record(params)},
        inputs=[source.as_input],
        extra={} if photos is None else {"photos": str(photos)},
    )

    def build(work: Work) -> Stage:
        from aligncut_cli.stages.segment.figures import SegmentFigures

        return SegmentFigures(work, source, masks, params, console, photos=photos)

    return run_stage(identity, options, console, inputs=[source.path], build=build)
