"""What the demo found: read from the records and arrays of its stores, and told as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligncut_cli.console import format_table
from aligncut_cli.store.provenance import read_record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHOWN, UNALIGNED = "consensus", "unaligned"
COLOURS, PICTURE, PLOT = "tsne.zarr", "picture.png", "layers.png"
SMALL_WORLD = (
    "These three models know only this small world; on real photos use pretrained ones, such as `--model clip "
    "--model dino --model mae` (OpenAI's CLIP ViT-B/16, DINOv2 ViT-B/14 with registers, MAE ViT-B/16)."
)
SIDE_BY_SIDE = (SHOWN, "brain", "shuffled", UNALIGNED)


def summarize(folder: Path, targets: Sequence[str]) -> dict[str, Any]:
    """Read what was found from the stores' records; `targets` are the names of the fits."""

    def read(name: str) -> dict[str, Any]:
        return read_record(folder / name) or {}

    scores = {name: read_scores(folder / f"{name}.zarr") for name in ("figure", "classes")}
    fits = {name: read(f"{name}.zarr")["summary"] for name in targets}
    shares = {name: read(f"{name}-joint.zarr")["summary"]["shares"]["all"] for name in targets}
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
        "colours": name_colours(folder, scores["classes"]["best_layer"]),
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
        "other_masks": {model: values["shuffled"][0, j].tolist() for j, model in enumerate(models)},
        "bound": float(values["bound"][0].max()),
        "best_layer": {model: int(values["miou"][0, j].argmax()) for j, model in enumerate(models)},
    }


def name_colours(folder: Path, layers: Mapping[str, int]) -> dict[str, Any]:
    """Score whether objects of a category have one colour in all models, each at the layer that is named for it."""
    import numpy as np

    from aligncut_cli.maths.colour_naming import name_by_colour

    colours, categories = collect_object_colours(folder, layers)
    kinds, counts = np.unique(categories, return_counts=True)
    kept = np.isin(categories, kinds[counts > 1])
    share = name_by_colour(colours[:, kept], categories[kept]) if kept.any() else float("nan")
    return {"share": share, "chance": 1 / max(1, int((counts > 1).sum())), "objects": int(kept.sum())}


def collect_object_colours(folder: Path, layers: Mapping[str, int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Collect objects' mean colours, over the tokens that each covers most of, and their categories.

    returns : (models, objects, 3) at one layer of each model, and (objects,) values of the masks
    """
    import numpy as np

    from aligncut_cli.demo.scenes import CATEGORIES
    from aligncut_cli.maths.grid import round_mask_to_grid
    from aligncut_cli.store.kinds.tsne import Tsne
    from aligncut_cli.store.read import open_store

    store = Tsne(open_store(folder / COLOURS, "tsne"))
    grids = {model.name: model.grid for model in store.axes.models}
    rgb = {name: store.read_colours(name, slice(None), layers=layer) for name, layer in layers.items()}
    colours, categories = [], []
    for image, identity in enumerate(store.images()["id"]):
        mask = read_mask(folder, str(identity))
        classes = {name: round_mask_to_grid(mask, grid, n_classes=len(CATEGORIES) + 1) for name, grid in grids.items()}
        for kind in set.intersection(*(set(found[found > 0].tolist()) for found in classes.values())):
            colours.append([rgb[name][image][classes[name] == kind].mean(axis=0) for name in layers])
            categories.append(kind)
    return np.array(colours).swapaxes(0, 1), np.array(categories)


def read_mask(folder: Path, identity: str) -> NDArray[np.int16]:
    """Return the classes of a scene's pixels."""
    import numpy as np
    from PIL import Image

    with Image.open(folder / "world" / "masks" / f"{identity}.png") as mask:
        return np.asarray(mask).astype(np.int16)


def describe_findings(found: dict[str, Any], folder: Path) -> str:
    """Write what was found as text, with what to type next."""
    columns = ("r2", "r2_low", "r2_high", "r2_of_ceiling", "ridge_r2")
    rows = [[name, *(score[column] for column in columns)] for name, score in found["brain"].items()]
    means, targets, colours = found["between_models"], found["targets"], found["colours"]
    lines = [
        "",
        "What was found in the synthetic world",
        "",
        format_table(
            ["ROI", "R2", "low", "high", "of the ceiling", "ridge R2"],
            rows,
            title="How well the space learned from the brain predicts responses to held-out images "
            "(R2 with its 95 % interval, and R2 divided by the noise ceiling):",
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
        f"Are photos of one category of one colour? The mean colours of one model's objects name "
        f"{colours['share']:.0%} of another's ({colours['chance']:.0%} by chance; {colours['objects']} objects, each "
        "model at its best layer).",
        "",
        f"Open the report:  {found['report']}",
        f"The picture:      {folder / PICTURE}, and {folder / PLOT}",
        "",
        SMALL_WORLD,
        "",
        "Next, your own photos:",
        "  aligncut extract PHOTOS -o f.zarr --model clip --model dino --model mae",
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
    rows = [[model, run, *miou[run][model]] for model in models for run in SIDE_BY_SIDE]
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
