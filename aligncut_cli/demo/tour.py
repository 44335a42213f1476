"""The demo: the whole pipeline on the small built-in world, by the same commands that a user types."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligncut_cli.console import Console, format_table
from aligncut_cli.errors import UsageError
from aligncut_cli.params import DemoParams
from aligncut_cli.store.provenance import read_record
from aligncut_cli.store.run import write_json

MODELS = ("demo-clip", "demo-dino", "demo-mae")
WORLD_RECORD = "world.json"
BRAIN_SEED = 0
SIMILARITY = ("similarity", "similarity-control")


@dataclass(frozen=True)
class Step:
    """One command of the demo, and why it is run."""

    why: str
    arguments: Sequence[str]


def make_world(folder: Path, params: DemoParams, console: Console) -> None:
    """Write photos, masks and responses of the built-in world, unless these very ones are there."""
    wanted = {"images": params.images, "seed": params.seed, "version": 2}
    record = folder / WORLD_RECORD
    if record.exists() and json.loads(record.read_text(encoding="utf-8")) == wanted:
        return
    from aligncut_cli.demo.scenes import TRAINING_SEED, write_scenes
    from aligncut_cli.demo.synthetic_brain import write_responses

    if params.seed == TRAINING_SEED:
        raise UsageError(f"--seed {TRAINING_SEED} draws the scenes that the models were trained on", do="Give another.")
    console.note(f"drawing {params.images} scenes and asking the synthetic brain about them")
    scenes = write_scenes(folder, params.images, params.seed)
    _write_figure_masks(folder)
    write_responses(folder / "brain", scenes, seed=BRAIN_SEED)
    write_json(record, wanted)


def _write_figure_masks(folder: Path) -> None:
    """Write figure/ID.png beside masks/ID.png: 1 on any object, 0 on the background; the folder names its two classes.

    Otherwise the nine names of classes.txt above would be taken for its own.
    """
    import numpy as np
    from PIL import Image

    (folder / "figure").mkdir(exist_ok=True)
    (folder / "figure" / "classes.txt").write_text("ground\nfigure\n", encoding="utf-8")
    for path in sorted((folder / "masks").glob("*.png")):
        with Image.open(path) as mask:
            Image.fromarray((np.asarray(mask) > 0).astype(np.uint8)).save(folder / "figure" / path.name)


def plan_steps(folder: Path, params: DemoParams) -> list[Step]:
    """Return the demo's commands in order; the folder is named in each, so that they can be typed again."""
    at = {
        name: str(folder / name)
        for name in ("world/images", "world/masks", "world/figure", "world/brain", *SIMILARITY, "pictures", "report")
    }
    stores = ("features", "alignment", "control", "eigs", "raw", "layers", "shuffled", "tsne", "map", "figure")
    z = {name: str(folder / f"{name}.zarr") for name in (*stores, "classes", "transitions")}
    brain, figure = at["world/brain"], at["world/figure"]
    models = [word for name in MODELS for word in ("--model", name)]
    fit = [
        *("--responses", brain, "--rois", f"{brain}/rois.json", "--noise-ceiling", f"{brain}/noise-ceiling.npy"),
        *("--universal-dim", "128", "--epochs", "12"),
    ]
    small = ("--n-sample", "1000", "--n-eig", "10", "--extend", "nystrom")
    runs = [f"after={z['layers']}", f"before={z['raw']}", f"control={z['shuffled']}"]
    along = [word for name in MODELS for word in ("--along", name)]
    return [
        Step("attention features of three small ViTs", ["extract", at["world/images"], "-o", z["features"], *models]),
        Step(
            "one universal space, learned from the synthetic brain",
            ["align", z["features"], "-o", z["alignment"], *fit],
        ),
        Step(
            "the control: the same fit to shuffled image-response pairs",
            ["align", z["features"], "-o", z["control"], *fit, "--control", "shuffle"],
        ),
        Step(
            "do the models agree, before and after?",
            ["compare", z["features"], "--alignment", z["alignment"], "-o", at["similarity"]],
        ),
        Step(
            "and after the control?",
            ["compare", z["features"], "--alignment", z["control"], "-o", at["similarity-control"]],
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
            "and after the control",
            ["eigs", z["features"], "--alignment", z["control"], "-o", z["shuffled"], "--group", "layer", *small],
        ),
        Step(
            "figure against ground, layer by layer",
            ["segment", *runs, "-o", z["figure"], "--masks", figure, "--resolution", "tokens"],
        ),
        Step(
            "and the eight categories",
            ["segment", *runs, "-o", z["classes"], "--masks", at["world/masks"], "--resolution", "tokens"],
        ),
        Step(
            "how far figure and ground part from layer to layer",
            ["transitions", z["tsne"], "-o", z["transitions"], *along, "--masks", figure, "--permutations", "200"],
        ),
        Step("photos in AlignedCut colours", ["render", z["tsne"], "-o", at["pictures"], "--images", "24"]),
        Step(
            "and everything on one page",
            [
                *("report", z["features"], z["alignment"], z["control"], *(at[name] for name in SIMILARITY)),
                *(z["eigs"], z["tsne"], z["map"], z["figure"], z["classes"], z["transitions"], "-o", at["report"]),
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
            *((name, name) for name in SIMILARITY),
            ("transitions", "transitions.zarr"),
        )
    }
    return {
        "report": str(folder / "report" / "index.html"),
        "brain": record["alignment"]["summary"]["scores"],
        "control_r2": record["control"]["summary"]["scores"]["all"]["r2"],
        "between_models": {
            **record["similarity"]["summary"]["between_models"],
            "control": record["similarity-control"]["summary"]["between_models"]["after"],
        },
        "figure": read_scores(folder / "figure.zarr"),
        "classes": read_scores(folder / "classes.zarr"),
        "parting": record["transitions"]["bifurcations"],
    }


def read_scores(path: Path) -> dict[str, Any]:
    """Return mIoU per run, model and layer of a segments store, with chance and the bound of the token grid."""
    from aligncut_cli.store.read import open_store

    store = open_store(path, "segments")
    runs, models = list(dict.fromkeys(store.record["extra"]["runs"])), store.record["models"]
    values = {name: store.read(f"runs/{name}") for name in ("miou", "shuffled", "bound")}
    scores: dict[str, Any] = {
        run: {model: values["miou"][i, j].tolist() for j, model in enumerate(models)} for i, run in enumerate(runs)
    }
    best = values["miou"][0].argmax()
    return {
        "miou": scores,
        "shuffled": float(values["shuffled"][0].flat[best]),
        "bound": float(values["bound"][0].max()),
        "best_layer": {model: int(values["miou"][0, j].argmax()) for j, model in enumerate(models)},
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
            title="How well responses to held-out images are predicted (R2, and R2 divided by the noise ceiling):",
        ),
        f"The control, the same fit to shuffled image-response pairs, has R2 {found['control_r2']:.3f} over all.",
        "",
        f"One token in two models: mean cosine {means['before']:.2f} before alignment, {means['after']:.2f} after it, "
        f"{means['control']:.2f} after the control.",
        "",
        *describe_scores("Figure and ground", found["figure"]),
        "",
        *describe_scores("Eight categories and the ground", found["classes"]),
        "",
        *describe_parting(found["parting"]),
        "",
        f"Open the report:  {found['report']}",
        "",
        "Next, your own photos:",
        f"  aligncut extract PHOTOS -o f.zarr {' '.join(f'--model {name}' for name in MODELS)}",
        "  aligncut align f.zarr -o a.zarr --target consensus",
        "  aligncut eigs f.zarr -o e.zarr --alignment a.zarr",
        "  aligncut tsne e.zarr -o t.zarr",
        "  aligncut render t.zarr -o pictures",
    ]
    return "\n".join(lines)


def describe_scores(title: str, scores: dict[str, Any]) -> list[str]:
    """Say how well segments agree with the true masks, layer by layer, and how after compares with each other run."""
    miou = scores["miou"]
    layers = range(max(len(values) for values in miou["after"].values()))
    rows = [[model, run, *miou[run][model]] for model in miou["after"] for run in miou]
    table = format_table(
        ["model", "alignment", *(f"layer {layer}" for layer in layers)],
        rows,
        title=f"{title}: mIoU of segments against the true masks (one label per token):",
    )
    return [
        table,
        *(compare_runs(miou, "after", other) for other in miou if other != "after"),
        f"With other images' masks the best layer after alignment has {scores['shuffled']:.3f}; labels of whole tokens "
        f"reach {scores['bound']:.3f} at most.",
    ]


def compare_runs(miou: dict[str, dict[str, list[float]]], run: str, other: str) -> str:
    """Say by how much mIoU of one run is above or below another's, on average over layers and in how many of them."""
    gains = [a - b for model in miou[run] for a, b in zip(miou[run][model], miou[other][model], strict=True)]
    mean, higher = sum(gains) / len(gains), sum(gain > 0 for gain in gains)
    side = "above" if mean >= 0 else "below"
    return f"{run} is {abs(mean):.3f} {side} {other} on average, and higher in {higher} of {len(gains)} layers."


def describe_parting(steps: Sequence[dict[str, Any]]) -> list[str]:
    """Say between which layers figure and ground part most, with a p that is corrected for the maximum over steps."""
    lines = ["Where figure and ground part most (distance of their transition rows; p over all steps of a model):"]
    for model in dict.fromkeys(step["from"].partition(":")[0] for step in steps):
        own = [step for step in steps if step["from"].startswith(f"{model}:") and step["bifurcation"] is not None]
        if own:
            most = max(own, key=lambda step: step["bifurcation"])
            layer, p = most["to"].partition(":")[2], most["p_corrected"]
            lines.append(f"  {most['from']} -> {layer}: {most['bifurcation']:.3f} (p = {p:.3f})")
    return lines
