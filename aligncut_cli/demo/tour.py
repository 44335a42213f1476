"""The demo: the whole pipeline on the small built-in world, by the same commands that a user types."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligncut_cli.console import Console, format_table
from aligncut_cli.errors import OutputInTheWay, UsageError
from aligncut_cli.params import DemoParams
from aligncut_cli.store.provenance import read_record
from aligncut_cli.store.run import write_json

MODELS = ("demo-clip", "demo-dino", "demo-mae")
WORLD_RECORD = "world.json"
BRAIN_SEED = 0
TARGETS: dict[str, tuple[str, ...]] = {
    "brain": ("--target", "brain"),
    "consensus": ("--target", "consensus"),
    "both": ("--target", "both"),
    "shuffled": ("--target", "brain", "--control", "shuffle"),
    "random": ("--target", "brain", "--control", "random"),
}
WHY = {
    "brain": "a universal space learned from the responses of the synthetic brain",
    "consensus": "another of what all layers share; the brain takes no part, a ridge reads it out",
    "both": "the brain inside the consensus",
    "shuffled": "a control: the first fit with image-response pairs shuffled",
    "random": "another: the first fit to random targets",
}
SHOWN, UNALIGNED = "consensus", "unaligned"
EACH_LAYER = ("--n-eig", "10", "--extend", "nystrom", "--n-sample", "500")


@dataclass(frozen=True)
class Step:
    """One command of the demo, and why it is run."""

    why: str
    arguments: Sequence[str]


def make_world(folder: Path, params: DemoParams, console: Console) -> None:
    """Write photos, masks and responses of the built-in world, unless these very ones are there."""
    wanted = {"images": params.images, "seed": params.seed, "version": 2}
    record = folder / WORLD_RECORD
    if record.exists():
        if _read_world(record) == wanted:
            return
        raise OutputInTheWay(
            f"{folder.parent} holds the demo of another world", do="Name another folder: aligncut demo OTHER"
        )
    from aligncut_cli.demo.scenes import TRAINING_SEED, write_scenes
    from aligncut_cli.demo.synthetic_brain import write_responses

    if params.seed == TRAINING_SEED:
        raise UsageError(f"--seed {TRAINING_SEED} draws the scenes that the models were trained on", do="Give another.")
    console.note(f"drawing {params.images} scenes and asking the synthetic brain about them")
    scenes = write_scenes(folder, params.images, params.seed)
    _write_figure_masks(folder)
    write_responses(folder / "brain", scenes, seed=BRAIN_SEED)
    write_json(record, wanted)


def _read_world(record: Path) -> object:
    """Return what a world's record says, None where it is no JSON: then it is not the wanted one."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except ValueError:
        return None


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

    def at(name: str) -> str:
        return str(folder / name)

    features, colours, similarity, figure = at("features.zarr"), at("tsne.zarr"), at("similarity"), at("world/figure")
    models = [word for name in MODELS for word in ("--model", name)]
    along = [word for name in MODELS for word in ("--along", name)]
    runs = [f"{name}={at(f'{name}-layers.zarr')}" for name in (SHOWN, *(n for n in TARGETS if n != SHOWN), UNALIGNED)]
    scores = [at(f"{name}.zarr") for name in ("figure", "classes", "transitions")]
    few = ("--n-sample", "4000", "--iterations", "300")
    return [
        Step("attention features of three small ViTs", ["extract", at("world/images"), "-o", features, *models]),
        *(step for name in TARGETS for step in _plan_target(name, features, at)),
        Step(
            "each layer alone without any alignment",
            ["eigs", features, "-o", at(f"{UNALIGNED}-layers.zarr"), "--group", "layer", *EACH_LAYER],
        ),
        Step(
            "figure against ground, layer by layer, in every space",
            ["segment", *runs, "-o", at("figure.zarr"), "--masks", figure, "--resolution", "tokens"],
        ),
        Step(
            "and the eight categories",
            ["segment", *runs, "-o", at("classes.zarr"), "--masks", at("world/masks"), "--resolution", "tokens"],
        ),
        Step(
            f"do the layers of the {SHOWN} space agree?",
            ["compare", features, "--alignment", at(f"{SHOWN}.zarr"), "-o", similarity],
        ),
        Step(f"the colours of the {SHOWN} space", ["tsne", at(f"{SHOWN}-joint.zarr"), "-o", colours, *few]),
        Step("and its map", ["tsne", at(f"{SHOWN}-joint.zarr"), "-o", at("map.zarr"), "--dims", "2", *few]),
        Step(
            "how far figure and ground part from layer to layer",
            ["transitions", colours, "-o", at("transitions.zarr"), *along, "--masks", figure, "--permutations", "200"],
        ),
        Step("photos in AlignedCut colours", ["render", colours, "-o", at("pictures"), "--images", "24"]),
        Step(
            "and everything on one page",
            [
                *("report", features, *(at(f"{name}.zarr") for name in TARGETS), similarity),
                *(at(f"{SHOWN}-joint.zarr"), colours, at("map.zarr"), *scores, "-o", at("report")),
                *("--images", "60", "--title", "aligncut demo: a synthetic world"),
            ],
        ),
    ]


def _plan_target(name: str, features: str, at: Callable[[str], str]) -> list[Step]:
    """One space: its maps, the graph over all of its nodes, and the graph of each layer alone."""
    brain, aligned = at("world/brain"), at(f"{name}.zarr")
    fit = [
        *("--responses", brain, "--rois", f"{brain}/rois.json", "--noise-ceiling", f"{brain}/noise-ceiling.npy"),
        *("--universal-dim", "128", "--epochs", "12", *TARGETS[name]),
    ]
    joint = ["--alignment", aligned, "-o", at(f"{name}-joint.zarr"), "--extend", "nystrom", "--n-sample", "2000"]
    layers = ["--alignment", aligned, "-o", at(f"{name}-layers.zarr"), "--group", "layer", *EACH_LAYER]
    return [
        Step(WHY[name], ["align", features, "-o", aligned, *fit]),
        Step("one graph over every model, layer, image and token of it", ["eigs", features, *joint]),
        Step("and each layer alone, to be scored against the true masks", ["eigs", features, *layers]),
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

    def read(name: str) -> dict[str, Any]:
        return read_record(folder / name) or {}

    scores = {name: read_scores(folder / f"{name}.zarr") for name in ("figure", "classes")}
    fits = {name: read(f"{name}.zarr")["summary"] for name in TARGETS}
    shares = {name: read(f"{name}-joint.zarr")["summary"]["shares"]["all"] for name in TARGETS}
    return {
        "report": str(folder / "report" / "index.html"),
        "brain": fits["brain"]["scores"],
        "targets": {
            name: {
                "R2": fit["scores"]["all"]["r2"],
                "r": fit["scores"]["all"]["r"],
                "cosine between models": fit["between_models"],
                "slot share": shares[name]["slot"],
                "photo share": shares[name]["photo"],
                "L_eigen": fit["eq10"]["as kept"]["validation_eigen"],
                "figure mIoU": average_over_slots(scores["figure"]["miou"][name]),
                "categories mIoU": average_over_slots(scores["classes"]["miou"][name]),
            }
            for name, fit in fits.items()
        },
        "between_models": read("similarity")["summary"]["between_models"],
        **scores,
        "parting": read("transitions.zarr")["bifurcations"],
    }


def average_over_slots(miou: dict[str, list[float]]) -> float:
    """Return the mean over all layers of all models."""
    values = [value for layers in miou.values() for value in layers]
    return sum(values) / len(values)


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
    means, targets = found["between_models"], found["targets"]
    lines = [
        "",
        "What was found in the synthetic world",
        "",
        format_table(
            ["ROI", "R2", "of the ceiling", "ridge R2"],
            rows,
            title="How well the space learned from the brain predicts responses to held-out images "
            "(R2, and R2 divided by the noise ceiling):",
        ),
        "",
        format_table(
            ["", *targets],
            [[row, *(column[row] for column in targets.values())] for row in targets["brain"]],
            title="What each target of the alignment is worth (R2, r and cosine on images that were not fitted):",
        ),
        f"One token in two models, on all images: mean cosine {means['before']:.2f} before alignment, "
        f"{means['after']:.2f} in the {SHOWN} space. Pictures, map and transitions are made in that space.",
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
    """Say how well segments agree with the true masks, layer by layer, and how the shown space does beside others."""
    miou = scores["miou"]
    models = miou[SHOWN]
    layers = range(max(len(values) for values in models.values()))
    rows = [[model, run, *miou[run][model]] for model in models for run in (SHOWN, "brain", UNALIGNED)]
    table = format_table(
        ["model", "space", *(f"layer {layer}" for layer in layers)],
        rows,
        title=f"{title}: mIoU of segments against the true masks (one label per token):",
    )
    return [
        table,
        *(compare_runs(miou, SHOWN, other) for other in miou if other != SHOWN),
        f"With other images' masks the best layer of the {SHOWN} space has {scores['shuffled']:.3f}; labels of whole "
        f"tokens reach {scores['bound']:.3f} at most.",
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
