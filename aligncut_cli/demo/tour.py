"""The demo: the whole pipeline on the small built-in world, by the same commands that a user types."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligncut_cli.console import Console, format_table
from aligncut_cli.params import DemoParams
from aligncut_cli.store.provenance import read_record
from aligncut_cli.store.run import write_json

MODELS = ("demo-clip", "demo-dino", "demo-mae")
WORLD_RECORD = "world.json"
BRAIN_SEED = 0


@dataclass(frozen=True)
class Step:
    """One command of the demo, and why it is run."""

    why: str
    arguments: Sequence[str]


def make_world(folder: Path, params: DemoParams, console: Console) -> None:
    """Write photos, masks and responses of the built-in world, unless these very ones are there."""
    wanted = {"images": params.images, "seed": params.seed, "version": 1}
    record = folder / WORLD_RECORD
    if record.exists() and json.loads(record.read_text(encoding="utf-8")) == wanted:
        return
    from aligncut_cli.demo.scenes import write_scenes
    from aligncut_cli.demo.synthetic_brain import write_responses

    console.note(f"drawing {params.images} scenes and asking the synthetic brain about them")
    scenes = write_scenes(folder, params.images, params.seed)
    write_responses(folder / "brain", scenes, seed=BRAIN_SEED)
    write_json(record, wanted)


def plan_steps(folder: Path, params: DemoParams) -> list[Step]:
    """Return the demo's commands in order; the folder is named in each, so that they can be typed again."""
    at = {
        name: str(folder / name)
        for name in ("world/images", "world/masks", "world/brain", "similarity", "pictures", "concepts", "report")
    }
    stores = ("features", "alignment", "control", "eigs", "raw", "layers", "tsne", "map", "segments", "transitions")
    z = {name: str(folder / f"{name}.zarr") for name in stores}
    brain, masks = at["world/brain"], at["world/masks"]
    models = [word for name in MODELS for word in ("--model", name)]
    fit = [
        *("--responses", brain, "--rois", f"{brain}/rois.json", "--noise-ceiling", f"{brain}/noise-ceiling.npy"),
        *("--universal-dim", "128"),
    ]
    small = ("--n-sample", "2000", "--n-eig", "10")
    along = [word for name in MODELS for word in ("--along", name)]
    return [
        Step("attention features of three small ViTs", ["extract", at["world/images"], "-o", z["features"], *models]),
        Step(
            "one universal space, learned from the synthetic brain",
            ["align", z["features"], "-o", z["alignment"], *fit, "--epochs", "12"],
        ),
        Step(
            "the control: the same fit to shuffled image-response pairs",
            ["align", z["features"], "-o", z["control"], *fit, "--epochs", "3", "--control", "shuffle"],
        ),
        Step(
            "do the models agree, before and after?",
            ["compare", z["features"], "--alignment", z["alignment"], "-o", at["similarity"]],
        ),
        Step(
            "one graph over every model, layer, image and token",
            ["eigs", z["features"], "--alignment", z["alignment"], "-o", z["eigs"], "--n-sample", "4000"],
        ),
        Step("its colours", ["tsne", z["eigs"], "-o", z["tsne"], "--n-sample", "4000", "--iterations", "300"]),
        Step(
            "and its map",
            ["tsne", z["eigs"], "-o", z["map"], "--dims", "2", "--n-sample", "4000", "--iterations", "300"],
        ),
        Step(
            "each layer alone, to be scored against the true masks",
            ["eigs", z["features"], "--alignment", z["alignment"], "-o", z["layers"], "--group", "layer", *small],
        ),
        Step(
            "the same before alignment",
            ["eigs", z["features"], "-o", z["raw"], "--group", "layer", *small],
        ),
        Step(
            "the score",
            ["segment", f"after={z['layers']}", f"before={z['raw']}", "-o", z["segments"], "--masks", masks],
        ),
        Step(
            "how figure and ground part from layer to layer",
            ["transitions", z["tsne"], "-o", z["transitions"], *along, "--masks", masks, "--permutations", "200"],
        ),
        Step("photos in AlignedCut colours", ["render", z["tsne"], "-o", at["pictures"], "--images", "24"]),
        Step(
            "and everything on one page",
            [
                *("report", z["features"], z["alignment"], z["control"], at["similarity"], z["eigs"], z["tsne"]),
                *(z["map"], z["segments"], z["transitions"], "-o", at["report"]),
                *("--images", "60", "--title", "aligncut demo: a synthetic world"),
            ],
        ),
    ]


def run(
    folder: Path,
    params: DemoParams,
    console: Console,
    call: Callable[[Sequence[str]], None],
) -> dict[str, Any]:
    """Make the world, run every command, and return what was found.

    call : runs one command line of aligncut; raises where it fails
    """
    console.note("A small SYNTHETIC world: drawn scenes and a computed brain, so that the truth is known.")
    make_world(folder / "world", params, console)
    for step in plan_steps(folder, params):
        console.note(f"\n# {step.why}\n$ aligncut {shlex.join(step.arguments)}")
        call([*step.arguments, "--seed", str(params.seed)] if params.seed else list(step.arguments))
    return summarize(folder)


def summarize(folder: Path) -> dict[str, Any]:
    """Read what was found from the stores' records."""
    record = {
        name: read_record(folder / path) or {}
        for name, path in (
            ("alignment", "alignment.zarr"),
            ("control", "control.zarr"),
            ("similarity", "similarity"),
            ("segments", "segments.zarr"),
            ("transitions", "transitions.zarr"),
        )
    }
    return {
        "report": str(folder / "report" / "index.html"),
        "brain": record["alignment"]["summary"]["scores"],
        "control_r2": record["control"]["summary"]["scores"]["all"]["r2"],
        "between_models": record["similarity"]["summary"]["between_models"],
        "segments": record["segments"]["summary"],
        "transitions": record["transitions"]["summary"],
    }


def describe_findings(found: dict[str, Any], folder: Path) -> str:
    """Write what was found as text, with what to type next."""
    rows = [[name, score["r2"], score["r2_of_ceiling"], score["ridge_r2"]] for name, score in found["brain"].items()]
    means = found["between_models"]
    lines = [
        "",
        "What was found in the synthetic world",
        "",
        format_table(
            ["ROI", "R2", "of the ceiling", "ridge R2"],
            rows,
            title="The brain is predicted (held-out images; R2 divided by the noise ceiling):",
        ),
        f"With shuffled image-response pairs R2 is {found['control_r2']:.3f}.",
        "",
        f"The same token in two models: mean cosine {means['before']:.2f} before alignment, {means['after']:.2f} after.",
        "",
        *describe_scores(found["segments"]),
        "",
        *describe_parting(found["transitions"]),
        "",
        f"Open the report:  {found['report']}",
        "",
        "Next, your own photos:",
        f"  aligncut extract PHOTOS -o f.zarr {' '.join(f'--model {name}' for name in MODELS)}",
        "  aligncut eigs f.zarr -o e.zarr --group model",
        "  aligncut tsne e.zarr -o t.zarr",
        "  aligncut render t.zarr -o pictures",
    ]
    return "\n".join(lines)


def describe_scores(summary: dict[str, Any]) -> list[str]:
    """Say how well segments agree with the true masks, layer by layer."""
    return [json.dumps(summary, default=str)]


def describe_parting(summary: dict[str, Any]) -> list[str]:
    """Say in which layer figure and ground part."""
    return [json.dumps(summary, default=str)]
