"""What the report shows of an alignment: the score of every brain area."""

from __future__ import annotations

from aligncut_cli.maths.response_scores import average_over_rois
from aligncut_cli.stages.blocks import Files, PageBlock, Section, table_block
from aligncut_cli.store.read import Store
from aligncut_cli.viz.page import finite


def is_synthetic(store: Store) -> bool:
    """Return whether a store was fitted to made-up responses, as its readers have recorded."""
    return bool(store.record.get("responses", {}).get("synthetic"))


def describe_alignment(store: Store, files: Files) -> list[PageBlock]:
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


SECTION = Section(
    "brain",
    "Brain scores",
    "How much of the measured response to images it has never seen the aligned features explain.",
    describe_alignment,
    lambda store: store.kind == "alignment",
)
