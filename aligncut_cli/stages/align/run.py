"""Stage 2: one universal channel space, learned from brain responses (Eq. 1, 2, 10), or applied to features."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import AlignParams, ApplyParams, RunOptions, as_record
from aligncut_cli.stages.response_paths import ResponsePaths
from aligncut_cli.stages.style import STYLE_PARAMS, style_record
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import Store, open_store
from aligncut_cli.store.run import Outcome, Work

VERSION = 5
FIGURES_VERSION = 3


def run(
    features: Path,
    paths: ResponsePaths | None,
    params: AlignParams,
    options: RunOptions,
    console: Console,
    *,
    figures: Path | None = None,
) -> Outcome:
    """Write an alignment store fitted to these responses, and tables if asked for; returns path and scores."""
    if paths is None and params.target != "consensus":
        raise UsageError(
            f"align --target {params.target} needs --responses to fit",
            do="Give them, or --target consensus, which needs none; or --apply to map by a finished fit.",
        )
    source = open_store(features, "features")
    if source.record["stage"] == "align":
        raise UsageError(f"{features} is already mapped to a universal space", do="Fit to the features as extracted.")
    identity = Identity(
        stage="align",
        version=VERSION,
        kind="alignment",
        params=as_record(params),
        inputs=[source.as_input, *([] if paths is None else [paths.as_input()])],
        loose=STYLE_PARAMS,
    )

    build = partial(_build, source, paths, params)
    outcome = run_stage(identity, options, console, inputs=[source.path], build=build)
    if figures is not None and outcome.plan is None:
        draw(outcome.path, params, replace(options, output=figures), console)
        console.note(f"tables and pictures are in {figures}")
    return outcome


def _build(source: Store, paths: ResponsePaths | None, params: AlignParams, work: Work) -> Stage:
    if paths is None:
        from aligncut_cli.stages.align.consensus_phases import ConsensusStage

        return ConsensusStage(work, source, params, work.options, work.console)
    from aligncut_cli.stages.align.phases import AlignStage

    return AlignStage(work, source, paths, params)


def draw(alignment: Path, params: AlignParams, options: RunOptions, console: Console) -> Outcome:
    """Write CSV tables and a heat map of an alignment to a folder; returns its path."""
    source = open_store(alignment, "alignment")
    identity = Identity(
        stage="align --figures",
        version=FIGURES_VERSION,
        kind="folder",
        params=style_record(params),
        inputs=[source.as_input],
    )

    def build(work: Work) -> Stage:
        from aligncut_cli.stages.align.figures import AlignFigures

        return AlignFigures(work, source, params, console)

    return run_stage(identity, options, console, inputs=[source.path], build=build)


def apply(features: Path, alignment: Path, params: ApplyParams, options: RunOptions, console: Console) -> Outcome:
    """Write a features store mapped to the universal space by a fitted alignment; returns its path."""
    source, fitted = open_store(features, "features"), open_store(alignment, "alignment")
    identity = Identity(
        stage="align",
        version=VERSION,
        kind="features",
        params=as_record(params),
        inputs=[source.as_input, fitted.as_input],
        loose=["seed"],
    )

    build = partial(_build_apply, source, fitted)
    return run_stage(identity, options, console, inputs=[source.path, fitted.path], build=build)


def _build_apply(source: Store, fitted: Store, work: Work) -> Stage:
    from aligncut_cli.stages.align.apply import ApplyStage

    return ApplyStage(work, source, fitted)
