"""Stage 6: how tokens move between the concepts of two slots, or of all layers of a model in turn (Fig. 9 and 10)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import RunOptions, TransitionsParams, as_record
from aligncut_cli.stages.inputs import MASK_PARAMS, open_mask_input, require_background
from aligncut_cli.stages.style import STYLE_PARAMS, style_record
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import Store, open_store
from aligncut_cli.store.run import Outcome, Work

VERSION = 2
FIGURES_VERSION = 3


def run(
    tsne: Path,
    params: TransitionsParams,
    options: RunOptions,
    console: Console,
    *,
    masks: Path | None = None,
    classes: Path | None = None,
    figures: Path | None = None,
) -> Outcome:
    """Write a transitions store, and a folder of tables and pictures if asked for; returns the store's path."""
    if (params.from_slot is None) != (params.to_slot is None):
        raise UsageError("--from and --to go together", do="Give both, such as --from clip:3 --to clip:4.")
    if params.from_slot is None and not params.along:
        raise UsageError("nothing says which slots", do="Give --from clip:3 --to clip:4, or --along clip.")
    if params.radius is not None and not params.radius > 0:
        raise UsageError(f"a radius of {params.radius} holds no token", do="Give a --radius above 0.")
    source = open_store(tsne, "tsne")
    truth = open_mask_input(masks, params, classes=classes, console=console)
    require_background(truth.masks)
    identity = Identity(
        stage="transitions",
        version=VERSION,
        kind="transitions",
        params=as_record(params),
        inputs=[source.as_input, *truth.records],
        extra={"masks_format": truth.format},
        loose=[*MASK_PARAMS, *STYLE_PARAMS],
    )

    def build(work: Work) -> Stage:
        from aligncut_cli.stages.transitions.phases import TransitionsStage

        return TransitionsStage(work, source, truth.masks, params, console)

    outcome = run_stage(identity, options, console, inputs=[source.path], build=build)
    if figures is not None and outcome.plan is None:
        draw(outcome.path, source, params, replace(options, output=figures), console)
        console.note(f"tables and pictures are in {figures}")
    return outcome


def draw(transitions: Path, tsne: Store, params: TransitionsParams, options: RunOptions, console: Console) -> Outcome:
    """Write CSV tables, heat maps, flow diagrams and trajectories of a transitions store to a folder."""
    source = open_store(transitions, "transitions")
    identity = Identity(
        stage="transitions --figures",
        version=FIGURES_VERSION,
        kind="folder",
        params=style_record(params),
        inputs=[source.as_input, tsne.as_input],
    )

    def build(work: Work) -> Stage:
        from aligncut_cli.stages.transitions.figures import TransitionsFigures

        return TransitionsFigures(work, source, tsne, params, console)

    return run_stage(identity, options, console, inputs=[source.path, tsne.path], build=build)
