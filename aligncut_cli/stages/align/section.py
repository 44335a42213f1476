"""What the report shows of an alignment: the score of every brain area, and what the layers share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aligncut_cli.maths.response_scores import average_over_rois
from aligncut_cli.stages.blocks import Files, PageBlock, Section, name_of, table_block
from aligncut_cli.stages.regions import order_regions
from aligncut_cli.store.kinds.alignment import CEILING, CONSENSUS_R2, R2, RIDGE_R, RIDGE_R2, Alignment, R
from aligncut_cli.store.read import Store
from aligncut_cli.viz.page import finite


def is_synthetic(store: Store) -> bool:
    """Return whether a store was fitted to made-up responses, as its readers have recorded."""
    return bool(store.record.get("responses", {}).get("synthetic"))


def describe_alignment(store: Store, files: Files) -> list[PageBlock]:
    """R^2 of every ROI on held-out images, beside the noise ceiling and the ridge."""
    alignment = Alignment(store)
    shared = _describe_consensus(alignment)
    if not alignment.has_score(R2):
        return shared
    rois = alignment.read_rois()
    ceiling = alignment.read_score(CEILING) if alignment.has_score(CEILING) else None
    columns = {"R²": R2, "ridge R²": RIDGE_R2, "r": R, "ridge r": RIDGE_R}
    scores = {
        title: average_over_rois(alignment.read_score(score), rois)
        for title, score in columns.items()
        if alignment.has_score(score)
    }
    if ceiling is not None:
        scores["ceiling"] = average_over_rois(ceiling, rois)
    order = [name for name in store.record.get("responses", {}).get("rois", {}) if name in rois]
    rois = {name: rois[name] for name in order_regions([*order, *(name for name in rois if name not in order)])}
    names = [name for name in (*rois, "all") if scores["R²"].get(name) is not None]
    size = {name: int(mask.sum()) for name, mask in rois.items()}
    size["all"] = alignment.shape[1]
    header = ["ROI", "voxels", *scores]
    rows = [[name, size[name], *(values[name] for values in scores.values())] for name in names]
    marks = [
        {"name": label, "sign": sign, "values": finite([scores[key][name] for name in names])}  # type: ignore[misc]
        for key, label, sign in (("ceiling", "noise ceiling", "upright"), ("ridge R²", "ridge regression", "diamond"))
        if key in scores
    ]
    known = store.record["summary"].get("scores") or {}
    ends = [finite([known.get(name, {}).get(end, np.nan) for name in names]) for end in ("r2_low", "r2_high")]
    intervals = {"intervals": ends} if any(value is not None for end in ends for value in end) else {}
    about = (
        "The bar is R² averaged over the ROI's voxels: 1 minus the squared error over the responses' squared deviation "
        "from their own mean on these images. 1 is exact; a constant prediction reaches 0 at most. "
    )
    about += "The upright line is the noise ceiling as it was given. " if ceiling is not None else ""
    about += "The diamond is a ridge regression on the same features." if "ridge R²" in scores else ""
    return [
        *shared,
        {
            "kind": "bars",
            "title": "R² of every brain area on held-out images",
            "about": ("Synthetic responses, made by a formula and not measured. " if is_synthetic(store) else "")
            + about,
            "labels": names,
            "yLabel": "R²",
            "values": finite([scores["R²"][name] for name in names]),  # type: ignore[misc]
            **intervals,
            "marks": marks,
        },
        table_block("Scores of every brain area", header, rows, open=False),
    ]


def _describe_consensus(alignment: Alignment) -> list[PageBlock]:
    """What every layer says about the consensus of the others, against layer; nothing where there is no consensus."""
    record = alignment.store.record.get("summary", {}).get("consensus")
    if record is None:
        return []
    panels = []
    for model in alignment.store.record["models"]:
        r2 = alignment.read_slot_score(CONSENSUS_R2, model)
        chance = [record["slots"][f"{model}:{layer}"]["r2_by_position"] for layer in alignment.layers(model)]
        series = [
            {"name": "R²", "style": "line", "y": finite(r2[:, 0])},
            {"name": "by position alone", "style": "dashed", "y": finite(np.array(chance))},
        ]
        panels.append({"title": model, "x": alignment.layers(model), "series": series})
    header = ["slot", "weight", "R²", "low", "high", "R² by position"]
    rows = [[name, s["weight"], *s["r2"], s["r2_by_position"]] for name, s in record["slots"].items()]
    return [
        {
            "kind": "curves",
            "title": "How well each layer predicts the consensus of the others",
            "about": "On images that the fit never saw. The dashed line is the same fit to images exchanged between "
            "layers, in which only a patch's position is shared.",
            "xLabel": "layer",
            "yLabel": "R²",
            "low": 0,
            "high": 1,
            "panels": panels,
        },
        table_block("The consensus, layer by layer", header, rows, open=False),
    ]


def compare_alignments(stores: Sequence[Store]) -> list[PageBlock]:
    """Tabulate what each space is worth; a row that no store can fill is left out."""
    summaries = [store.record.get("summary", {}) for store in stores]
    kept = [summary.get("eq10", {}).get("as kept", {}) for summary in summaries]
    everywhere = [(summary.get("scores") or {}).get("all", {}) for summary in summaries]
    figures = {
        "R²": [scores.get("r2") for scores in everywhere],
        "r": [scores.get("r") for scores in everywhere],
        "cosine of one token between models": [summary.get("between_models") for summary in summaries],
        "L_eigen": [loss.get("validation_eigen") for loss in kept],
    }
    rows = [[name, *values] for name, values in figures.items() if any(value is not None for value in values)]
    about = "R² and r are of test images; the rest of validation images, which chose epoch and penalties."
    return [table_block(f"What each space is worth. {about}", ["", *map(name_of, stores)], rows, open=True)]


SECTION = Section(
    "brain",
    "The universal space",
    "How well the aligned features predict responses to images that were held out, by ROI.",
    describe_alignment,
    lambda store: store.kind == "alignment",
    compare_alignments,
)
