"""Stage 5: a segment for every token, by an oracle that knows the masks (Appendix C.4) or by clustering; and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import RunOptions, SegmentParams, as_record
from aligncut_cli.stages.inputs import open_mask_input
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import Store, open_store, read_piped_path
from aligncut_cli.store.run import Outcome, begin

VERSION = 1
FIGURES_VERSION = 1
LOOSE = ("masks_format", "pictures")


@dataclass(frozen=True)
class Run:
    """One eigs store to score; runs of one name are repetitions, say with other seeds."""

    name: str
    store: Store


def run(
    eigs: Sequence[str],
    params: SegmentParams,
    options: RunOptions,
    console: Console,
    *,
    masks: Path | None = None,
    classes: Path | None = None,
    figures: Path | None = None,
) -> Outcome:
    """Write a segments store, and a folder of tables and pictures where one is asked for; returns the store's path.

    eigs : paths, or NAME=PATH; labels are kept of the first, scores of all
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
    truth = open_mask_input(masks, format=params.masks_format, classes=classes)
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
    with begin(identity, options, inputs=[run.store.path for run in runs]) as work:
        if work.complete:
            outcome = work.outcome()
        else:
            from aligncut_cli.stages.segment.phases import segment_phases

            outcome = segment_phases(work, runs, truth.masks, params, options, console).run()
    if figures is not None and outcome.plan is None:
        draw(outcome.path, params, replace(options, output=figures), console, masks=masks, classes=classes)
    return outcome


def open_run(argument: str) -> Run:
    """Open an eigs store given as PATH, NAME=PATH or `-`; without a name it is called as its file."""
    name, equals, path = argument.partition("=")
    if not equals or "/" in name or Path(argument).exists():
        name, path = "", argument
    found = read_piped_path(path)
    return Run(name or found.name.removesuffix(".zarr"), open_store(found, "eigs"))


def draw(
    segments: Path,
    params: SegmentParams,
    options: RunOptions,
    console: Console,
    *,
    masks: Path | None,
    classes: Path | None,
) -> Outcome:
    """Write CSV tables, plots and overlays of a segments store to a folder; returns its path."""
    source = open_store(segments, "segments")
    truth = open_mask_input(masks, format=params.masks_format, classes=classes)
    identity = Identity(
        stage="segment --figures",
        version=FIGURES_VERSION,
        kind="folder",
        params={"pictures": params.pictures},
        inputs=[source.as_input],
    )
    with begin(identity, options, inputs=[source.path]) as work:
        if work.complete:
            return work.outcome()
        from aligncut_cli.stages.segment.figures import SegmentFigures

        return SegmentFigures(work, source, truth.masks, params.pictures, console).run()
