"""Turns scores, tables and pictures of stores into blocks that the report's page draws: tables, curves, heat maps.

A block is a dict with `kind` (table, curves, bars, matrix, flow, figure) and what that kind needs; the page knows
nothing of stores. Numbers that are not finite are null.
"""

from __future__ import annotations

import csv
import itertools
import math
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.response_scores import average_over_rois
from aligncut_cli.stages.report_views import flatten
from aligncut_cli.stages.segment_scores import read_scores, tabulate
from aligncut_cli.store.controls import collect_controls
from aligncut_cli.store.provenance import FOLDER_RECORD
from aligncut_cli.store.read import Store
from aligncut_cli.viz.page import finite

Block = dict[str, Any]
MOST_ROWS = 2000
MOST_FIGURES = 24
CAPTIONS = {
    ("concepts", "magnitude"): (
        "Strength and spread of activations",
        "Each point is one voxel: how strongly a concept excites it, and how much that varies. A negative rho means "
        "that what is strong varies little, as the paper found.",
    ),
    ("concepts", "patches"): ("Patches nearest to each concept", "What the patches in one concept look like."),
    ("concepts", "rois"): ("Brain areas that each concept excites", "Mean activation by concept and area."),
}


def name_of(store: Store) -> str:
    """Return what a store is called in headings: its file's name."""
    return store.path.resolve().name.removesuffix(".zarr")


def make_sections(stores: Sequence[Store], staging: Path) -> list[dict[str, Any]]:
    """Return the sections that these stores allow, in the order of the method; files are copied to `staging`."""
    files = Files(staging)
    kinds: list[tuple[str, str, str, Callable[[Store, Files], list[Block]], Callable[[Store], bool]]] = [
        (
            "segments",
            "Segmentation",
            "How well the eigenvectors of each layer separate the objects that people have outlined.",
            describe_segments,
            lambda store: store.kind == "segments" and store.has("scores"),
        ),
        (
            "brain",
            "Brain scores",
            "How much of the measured response to images it has never seen the aligned features explain.",
            describe_alignment,
            lambda store: store.kind == "alignment",
        ),
        (
            "slots",
            "Similarity of layers",
            "The same patch in every pair of layers: do two layers describe it with the same channels?",
            describe_folder,
            lambda store: store.record.get("stage") == "compare",
        ),
        (
            "activations",
            "Activations of brain areas",
            "What object and background patches would excite, layer by layer and area by area.",
            describe_activations,
            lambda store: store.record.get("stage") == "activations",
        ),
        (
            "concepts",
            "Concepts",
            "Places in the map where many patches gather, and what they have in common.",
            describe_folder,
            lambda store: store.record.get("stage") == "concepts",
        ),
        (
            "transitions",
            "Transitions",
            "Where patches of one concept go in the next layer, objects and background apart.",
            describe_transitions,
            lambda store: store.kind == "transitions",
        ),
        (
            "more",
            "More pictures and tables",
            "What other commands wrote.",
            describe_folder,
            lambda store: (
                store.kind == "folder" and store.record.get("stage") not in ("compare", "activations", "concepts")
            ),
        ),
    ]
    sections = []
    for id, title, lead, describe, wanted in kinds:
        parts = [
            {"name": name_of(store), "controls": collect_controls(store), "blocks": describe(store, files)}
            for store in stores
            if wanted(store)
        ]
        parts = [part for part in parts if part["blocks"]]
        if parts:
            sections.append({"id": id, "title": title, "lead": lead, "parts": parts})
    return sections


class Files:
    """Files that are copied into the report, named by number."""

    def __init__(self, staging: Path) -> None:
        self.staging = staging
        self.counts = {"tables": 0, "figures": 0}

    def copy(self, file: Path, folder: str) -> str:
        """Copy a file to `tables` or `figures` and return its path from the page."""
        name = f"{folder}/{self.counts[folder]}{file.suffix.lower()}"
        self.counts[folder] += 1
        shutil.copyfile(file, self.staging / name)
        return name


def table_block(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]], **more: Any) -> Block:
    """Make a table; a column whose cells are all numbers or empty sorts as numbers."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in cells) for i in range(len(header))]
    return {"kind": "table", "title": title, "header": list(header), "numeric": numeric, "rows": cells, **more}


def _cell(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else None


# ---- segments


def describe_segments(store: Store, files: Files) -> list[Block]:
    """mIoU against layer, one panel per model, with what it can be compared to; and the tables."""
    scores = read_scores(store)
    panels = []
    for model, layers in scores.layers.items():
        series: list[dict[str, Any]] = []
        for name in scores.names:
            miou = scores.of(name, model, "miou")
            spread = miou.std(axis=0, ddof=1) if len(miou) > 1 else None
            series.append(
                {
                    "name": name if len(scores.names) > 1 else "mIoU",
                    "style": "line",
                    "y": finite(miou.mean(axis=0)),
                    "spread": None if spread is None else finite(spread),
                }
            )
        first = scores.names[0]
        for key, style in (("bound", "bound"), ("shuffled", "dashed"), ("chance", "dotted")):
            if key in scores.values:
                label = {"bound": "best a grid of patches can do", "shuffled": "masks of other images"}.get(key, key)
                values = finite(scores.of(first, model, key).mean(axis=0))
                series.append({"name": label, "style": style, "y": values})
        panels.append({"title": model, "x": layers, "series": series})
    header, rows = tabulate(scores)
    blocks: list[Block] = [
        {
            "kind": "curves",
            "title": f"mIoU at every layer, {len(scores.classes)} classes ({scores.method})",
            "about": "1 is a perfect outline of every class. The grey line is the most that whole patches can reach; "
            "the dashed line is scored with other images' masks, so a curve that stays on it has found nothing.",
            "xLabel": "layer",
            "yLabel": "mIoU",
            "low": 0,
            "high": 1,
            "panels": panels,
        },
        table_block("Scores of every layer", header, rows, open=False),
    ]
    if "iou" in scores.values:
        slots = [(model, layer, at) for model, layers in scores.layers.items() for at, layer in enumerate(layers)]
        first = scores.names[0]
        values = [scores.of(first, model, "iou").mean(axis=0)[at] for model, _, at in slots]
        blocks.append(
            {
                "kind": "matrix",
                "title": "IoU of every class",
                "about": "One row per layer, one column per class; darker is better.",
                "rows": [f"{model}:{layer}" for model, layer, _ in slots],
                "columns": scores.classes,
                "values": finite(np.array(values)),
                "low": 0,
                "high": 1,
            }
        )
    return blocks


# ---- alignment


def is_synthetic(store: Store) -> bool:
    """Return whether a store was fitted to made-up responses, as its readers have recorded."""
    return bool(store.record.get("responses", {}).get("synthetic"))


def describe_alignment(store: Store, files: Files) -> list[Block]:
    """R^2 of every ROI on held-out images, beside the noise ceiling and the ridge."""
    if not store.has("scores/r2"):
        return []
    rois = {name: store.read(f"roi/{name}").astype(bool) for name in store.names("roi")}
    ceiling = store.read("scores/ceiling") if store.has("scores/ceiling") else None
    columns = {"R²": "r2", "ridge R²": "ridge_r2", "r": "r", "ridge r": "ridge_r"}
    scores = {
        title: average_over_rois(store.read(f"scores/{name}"), rois)
        for title, name in columns.items()
        if store.has(f"scores/{name}")
    }
    if ceiling is not None:
        scores["ceiling"] = average_over_rois(ceiling, rois)
    order = store.record.get("responses", {}).get("rois", {})
    rois = {name: rois[name] for name in [*(n for n in order if n in rois), *(n for n in rois if n not in order)]}
    names = [name for name in (*rois, "all") if scores["R²"].get(name) is not None]
    size = {name: int(mask.sum()) for name, mask in rois.items()}
    size["all"] = len(store.read("scores/r2"))
    header = ["ROI", "voxels", *scores]
    rows = [[name, size[name], *(values[name] for values in scores.values())] for name in names]
    marks = [
        {"name": label, "sign": sign, "values": finite([scores[key][name] for name in names])}  # type: ignore[misc]
        for key, label, sign in (("ceiling", "noise ceiling", "upright"), ("ridge R²", "ridge regression", "diamond"))
        if key in scores
    ]
    about = (
        "The bar is the variance explained, averaged over the area's voxels; 0 is no better than the mean response. "
    )
    about += (
        "The upright line is the noise ceiling, the most that any model could explain. " if ceiling is not None else ""
    )
    about += "The diamond is a ridge regression on the same features." if "ridge R²" in scores else ""
    return [
        {
            "kind": "bars",
            "title": "R² of every brain area on held-out images",
            "about": ("Synthetic responses, made by a formula and not measured. " if is_synthetic(store) else "")
            + about,
            "labels": names,
            "yLabel": "R²",
            "values": finite([scores["R²"][name] for name in names]),  # type: ignore[misc]
            "marks": marks,
        },
        table_block("Scores of every brain area", header, rows, open=False),
    ]


# ---- activations


def describe_activations(store: Store, files: Files) -> list[Block]:
    """Object minus background per slot and ROI as a heat map, both against layer as curves; then what else is there."""
    path = store.path / "activations.csv"
    if not path.exists():
        return describe_folder(store, files)
    with path.open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    needed = {"model", "layer", "roi", "foreground", "background", "difference"}
    if not table or not needed <= set(table[0]):
        return describe_folder(store, files)
    models, rois = (list(dict.fromkeys(row[name] for row in table)) for name in ("model", "roi"))
    found = {(row["model"], row["layer"], row["roi"]): row for row in table}
    slots = list(dict.fromkeys((row["model"], row["layer"]) for row in table))

    def values(name: str, places: Sequence[tuple[str, str, str]]) -> list[float | None]:
        cells = [_number(found[place][name]) if place in found else None for place in places]
        return [float(x) if isinstance(x, int | float) else None for x in cells]

    difference = [values("difference", [(*slot, roi) for roi in rois]) for slot in slots]
    reach = max((abs(x) for row in difference for x in row if x is not None), default=0.0) or 1.0
    blocks: list[Block] = [
        {
            "kind": "matrix",
            "title": "Object minus background",
            "about": "How much more an area would respond to object patches than to background patches, by layer.",
            "rows": [f"{model}:{layer}" for model, layer in slots],
            "columns": rois,
            "values": difference,
            "low": -reach,
            "high": reach,
            "digits": 2 if reach >= 1 else 3,
        }
    ]
    for model in models:
        layers = [layer for name, layer in slots if name == model]
        panels: list[dict[str, Any]] = []
        for roi in rois:
            places = [(model, layer, roi) for layer in layers]
            series = [
                {"name": title, "style": "line", "y": values(name, places), "spread": values(f"{name} error", places)}
                for name, title in (("foreground", "object"), ("background", "background"))
                if f"{name} error" in table[0]
            ]
            panels.append({"title": roi, "x": layers, "series": series})
        known = [x for panel in panels for line in panel["series"] for x in line["y"] if x is not None]
        blocks.append(
            {
                "kind": "curves",
                "title": f"Activation of every area, {model}",
                "about": "Mean over object and over background patches of all photos; the band is the standard error.",
                "xLabel": "layer",
                "yLabel": "activation",
                "low": -_round_up(-min(known, default=0.0)) if min(known, default=0.0) < 0 else 0,
                "high": _round_up(max(map(abs, known), default=1.0)),
                "panels": panels,
                "folded": model != models[0],
            }
        )
    drawn = {"activations.png", "difference.png"}
    return blocks + describe_folder(store, files, leave_out=drawn)


def _round_up(value: float) -> float:
    """Return the next number with one digit, so that an axis has round ends."""
    step = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return math.ceil(value / step) * step


# ---- folders of CSV and pictures


def describe_folder(store: Store, files: Files, leave_out: Collection[str] = ()) -> list[Block]:
    """Every CSV as a heat map where it is a square of like rows and columns, else as a table; every PNG as it is.

    leave_out : names of pictures that are drawn otherwise
    """
    blocks: list[Block] = []
    found = sorted(path for path in store.path.rglob("*") if path.is_file() and path.name != FOLDER_RECORD)
    squares = []
    for path in (p for p in found if p.suffix.lower() == ".csv"):
        title = path.relative_to(store.path).with_suffix("").as_posix().replace("-", " ").replace("_", " ")
        square = read_square(path)
        if square is not None:
            squares.append((title, *square))
        else:
            blocks.append(_csv_table(path, title, files))
    squares.sort(key=lambda square: "before" not in square[0])
    if squares:
        blocks = [_square_block(squares, store), *blocks]
    pictures = [p for p in found if p.suffix.lower() == ".png" and p.name not in leave_out]
    if squares and store.record.get("stage") == "compare":
        pictures = []  # the same heat maps, drawn above
    if store.record.get("stage") == "render":
        pictures = [p for p in pictures if p.name == "overview.png"]
    figures = [_figure(path, store, files) for path in pictures[:MOST_FIGURES]]
    left = len(pictures) - len(figures)
    if left > 0:
        figures[-1]["about"] = f"{left} more pictures are in {store.path}."
    return [*figures, *blocks]


def _figure(path: Path, store: Store, files: Files) -> Block:
    title = path.relative_to(store.path).with_suffix("").as_posix().replace("-", " ").replace("_", " ")
    title, about = CAPTIONS.get((str(store.record.get("stage")), title), (title, ""))
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except OSError as error:
        raise BadInput(f"{path} is not a readable picture", do="Make the folder again.") from error
    return {
        "kind": "figure",
        "title": title,
        "about": about,
        "file": files.copy(path, "figures"),
        "alt": f"{title}, drawn by aligncut {store.record.get('stage')}. {about}".strip(),
        "width": width,
        "height": height,
    }


def read_square(path: Path) -> tuple[list[str], list[list[float | None]]] | None:
    """Return labels and values of a CSV whose rows and columns have the same names, else None."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    if len(rows) < 2:
        return None
    labels = [name for name in rows[0][1:] if name != "control"]
    if len(labels) < 2 or [row[0] for row in rows[1:] if row] != labels:
        return None
    values = [[_number(text) for text in row[1 : 1 + len(labels)]] for row in rows[1:]]
    return labels, [[x if isinstance(x, int | float) else None for x in row] for row in values]


def _square_block(squares: list[tuple[str, list[str], list[list[float | None]]]], store: Store) -> Block:
    panels = [
        {"title": title, "rows": labels, "columns": labels, "values": values} for title, labels, values in squares
    ]
    known = [x for panel in panels for row in panel["values"] for x in row if isinstance(x, float)]
    return {
        "kind": "matrix",
        "title": "Cosine similarity of the same patch between layers" if len(panels) > 1 else panels[0]["title"],
        "about": "Before alignment, layers of different models have nothing in common (near 0). After it, blocks of "
        "high similarity between models are concepts that they share. The diagonal is 1 by definition.",
        "panels": panels,
        "low": -1 if min(known, default=0) < -0.2 else 0,
        "high": 1,
    }


def _csv_table(path: Path, title: str, files: Files) -> Block:
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        header = next(reader, [])
        rows: list[list[Any]] = []
        more = 0
        for row in reader:
            if len(rows) < MOST_ROWS:
                rows.append([_number(text) for text in [*row, *[""] * len(header)][: len(header)]])
            else:
                more += 1
    about = f"The first {MOST_ROWS:,} of {MOST_ROWS + more:,} rows; the file holds all." if more else ""
    return table_block(title, header, rows, about=about, file=files.copy(path, "tables"), open=len(rows) <= 30)


def _number(text: str) -> str | int | float | None:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        return None
    return int(text) if text.lstrip("+-").isdigit() else value


# ---- transitions


def describe_transitions(store: Store, files: Files) -> list[Block]:
    """Transition probabilities as heat maps and flows: of one pair of slots, and along the layers of models."""
    record = store.record
    groups = [str(name) for name in record.get("masks", store.names("probability"))]
    tests = [list(test.values()) for test in record.get("bifurcations", [])]
    blocks: list[Block] = []
    if store.has("probability"):
        params = record["params"]
        slots = [str(params.get("from_slot") or "from"), str(params.get("to_slot") or "to")]
        arrays = {
            name: np.stack([store.read(f"{name}/{group}") for group in groups])[:, None]
            for name in ("probability", "counts")
        }
        blocks += _steps_blocks(f"{slots[0]} to {slots[1]}", slots, groups, arrays, folded=False)
    for model in (name for name in record.get("models", []) if store.has(f"{name}/probability")):
        layers = store.axes[model].layers
        arrays = {name: store.read(f"{model}/{name}") for name in ("probability", "counts")}
        slots = [f"{model}:{layer}" for layer in layers]
        if store.has(f"{model}/bifurcation"):
            blocks.append(_bifurcation_curve(store, model, [f"{a}→{b}" for a, b in itertools.pairwise(layers)]))
        blocks += _steps_blocks(model, slots, groups, arrays, folded=len(layers) > 2)
    if tests:
        header = ["from", "to", "radius from", "radius to", "bifurcation", "by chance", "p"]
        blocks.append(table_block("How far object and background part", header[: len(tests[0])], tests))
    return blocks


def _bifurcation_curve(store: Store, model: str, steps: list[str]) -> Block:
    series = [
        {"name": title, "style": style, "y": finite(store.read(f"{model}/{name}"))}
        for name, title, style in (("bifurcation", "measured", "line"), ("expected", "by chance", "dashed"))
    ]
    return {
        "kind": "curves",
        "title": "Where figure and ground part",
        "about": "How differently object and background patches of one concept move on to the next layer: 0 if they "
        "go the same ways, 1 if they never meet. The dashed line is what chance alone would give.",
        "xLabel": "step",
        "yLabel": "bifurcation",
        "low": 0,
        "high": 1,
        "panels": [{"title": model, "x": steps, "series": series}],
    }


def _steps_blocks(
    title: str, slots: list[str], groups: list[str], arrays: dict[str, np.ndarray[Any, Any]], *, folded: bool
) -> list[Block]:
    """Make a flow over all steps, and a heat map for each step and kind of patches.

    arrays : probability and counts, (group, step, from, to)
    """
    probability, counts = arrays["probability"], arrays["counts"]
    columns = [{"title": slot, "names": [str(k) for k in range(counts.shape[2])]} for slot in slots]
    flows = [
        {"title": f"{group} patches", "columns": columns, "links": counts[g].astype(int).tolist()}
        for g, group in enumerate(groups)
    ]
    panels = [
        {
            "title": f"{group} patches, {slots[step]} to {slots[step + 1]}",
            "rows": [f"A{k}" for k in range(counts.shape[2])],
            "columns": [f"B{k}" for k in range(counts.shape[3])],
            "values": finite(probability[g, step]),
        }
        for step in range(probability.shape[1])
        for g, group in enumerate(groups)
    ]
    return [
        {
            "kind": "flow",
            "title": f"Flow between concepts, {title}",
            "about": "Each bar is a concept of one layer; a band is as wide as the number of patches that are in both.",
            "panels": flows,
        },
        {
            "kind": "matrix",
            "title": f"Transition probability, {title}",
            "about": "Of the patches in concept A of the earlier layer (row), the share that is in concept B of the "
            "later one (column). Rows need not sum to 1: a patch may land in no concept.",
            "panels": panels,
            "low": 0,
            "high": 1,
            "folded": folded,
        },
    ]


# ---- provenance


def describe_stores(stores: Sequence[Store]) -> list[dict[str, Any]]:
    """Return what each store was made from and by: parameters, inputs, versions, seeds, figures."""
    described = []
    for store in stores:
        record = store.record
        described.append(
            {
                "name": name_of(store),
                "path": str(store.path.resolve()),
                "kind": store.kind,
                "stage": str(record.get("stage", "")),
                "seed": record.get("seed"),
                "created": record.get("created", ""),
                "controls": collect_controls(store),
                "models": [str(name) for name in record.get("models", [])],
                "params": _pairs(record.get("params", {})),
                "extra": _pairs(record.get("extra", {})),
                "inputs": [[item["kind"], item["path"], str(item["digest"])[:12]] for item in record.get("inputs", [])],
                "software": _pairs(record.get("software", {})),
                "runtime": _pairs(record.get("runtime", {})),
                "summary": _pairs(record.get("summary", {})),
                "digest": str(record.get("digest", ""))[:12],
            }
        )
    return described


def _pairs(values: dict[str, Any]) -> list[list[str]]:
    return [[key, _text(value)] for key, value in flatten(values)][:200]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not set" if value is None else str(value)
