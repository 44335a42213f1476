"""The demo: the whole pipeline on the small built-in world, by the same commands that a user types."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligncut_cli.console import Console
from aligncut_cli.demo.findings import COLOURS, SHOWN, UNALIGNED, summarize
from aligncut_cli.errors import OutputInTheWay, UsageError
from aligncut_cli.params import DemoParams
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
EACH_LAYER = ("--n-eig", "10", "--extend", "nystrom", "--n-sample", "500")


@dataclass(frozen=True)
class Step:
    """One command of the demo, and why it is run."""

    why: str
    arguments: Sequence[str]


def make_world(folder: Path, params: DemoParams, console: Console) -> None:
    """Write photos, masks and responses of the built-in world, unless these very ones are there."""
    wanted = {"images": params.images, "seed": params.seed, "version": 3}
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

    features, colours, similarity, figure = at("features.zarr"), at(COLOURS), at("similarity"), at("world/figure")
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
        *("--universal-dim", "128", "--epochs", "12", "--n-sample", "8000", *TARGETS[name]),
    ]
    joint = ["--alignment", aligned, "-o", at(f"{name}-joint.zarr"), "--extend", "nystrom", "--n-sample", "1500"]
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
    from aligncut_cli.demo.picture import draw_pictures

    found = summarize(folder, list(TARGETS))
    draw_pictures(folder, found)
    return found
