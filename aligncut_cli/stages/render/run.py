"""Draws every photo with all its models and layers in AlignedCut colours (Fig. 4)."""

from __future__ import annotations

from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.params import RenderParams, RunOptions, as_record
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import open_store
from aligncut_cli.store.run import Outcome, Work

VERSION = 4


def run(tsne: Path, params: RenderParams, options: RunOptions, console: Console) -> Outcome:
    """Write a folder of PNG montages, one per image, and an overview of the first ones; returns its path."""
    source = open_store(tsne, "tsne")
    identity = Identity(
        stage="render",
        version=VERSION,
        kind="folder",
        params=as_record(params),
        inputs=[source.as_input],
        loose=["seed"],
    )

    def build(work: Work) -> Stage:
        from aligncut_cli.stages.render.phases import RenderStage

        return RenderStage(work, source, params, console)

    return run_stage(identity, options, console, inputs=[source.path], build=build)
