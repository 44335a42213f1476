"""The report's sections, in the order of the method, and where each store came from."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aligncut_cli.stages.activations import section as activations
from aligncut_cli.stages.align import section as align
from aligncut_cli.stages.blocks import Files, PageBlock, Section, describe_folder, name_of
from aligncut_cli.stages.compare import section as compare
from aligncut_cli.stages.decode import section as decode
from aligncut_cli.stages.eigs import section as eigs
from aligncut_cli.stages.render import section as render
from aligncut_cli.stages.segment import section as segment
from aligncut_cli.stages.transitions import section as transitions
from aligncut_cli.store.read import Store, collect_controls

OWN_SECTIONS = ("compare", "activations", "concepts")
CONCEPT_CAPTIONS = {
    "magnitude": (
        "Strength and spread of activations",
        "Each point is one voxel: the size of its mean activation over a concept's tokens, and the standard deviation. "
        "rho is their rank correlation: below 0 where voxels of larger means deviate less.",
    ),
    "patches": ("Patches nearest to each concept", "The patches nearest to each concept's centre, in their photos."),
    "rois": ("Activation of each ROI by each concept", "Mean and standard deviation over the concept's tokens."),
}


def _describe_other(store: Store, files: Files) -> list[PageBlock]:
    """Show all that another command wrote, as that command's own section says where it has one."""
    describe = render.describe_render if store.record.get("stage") == "render" else describe_folder
    return describe(store, files)


SECTIONS = (
    segment.SECTION,
    align.SECTION,
    decode.SECTION,
    compare.SECTION,
    eigs.SECTION,
    activations.SECTION,
    Section(
        "concepts",
        "Concepts",
        "Balls in the map around chosen centres; the tokens inside one are a concept.",
        partial(describe_folder, captions=CONCEPT_CAPTIONS),
        lambda store: store.record.get("stage") == "concepts",
    ),
    transitions.SECTION,
    Section(
        "more",
        "More pictures and tables",
        "What other commands wrote.",
        _describe_other,
        lambda store: store.kind == "folder" and store.record.get("stage") not in OWN_SECTIONS,
    ),
)


def make_sections(stores: Sequence[Store], staging: Path) -> list[dict[str, Any]]:
    """Return the sections that these stores allow, in the order of the method; files are copied to `staging`."""
    files = Files(staging)
    sections = []
    for section in SECTIONS:
        wanted = [store for store in stores if section.wanted(store)]
        parts = [
            {"name": name_of(store), "controls": collect_controls(store), "blocks": section.describe(store, files)}
            for store in wanted
        ]
        if section.overview is not None and len(wanted) > 1:
            parts.insert(0, {"name": "Side by side", "controls": [], "blocks": section.overview(wanted)})
        parts = [part for part in parts if part["blocks"]]
        if parts:
            sections.append({"id": section.id, "title": section.title, "lead": section.lead, "parts": parts})
    return sections


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
    return [[key, _text(value)] for key, value in _flatten(values)][:200]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not set" if value is None else str(value)


def _flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """List nested figures as (dotted name, value)."""
    if isinstance(value, dict):
        return [item for key, inner in value.items() for item in _flatten(inner, f"{prefix}{key}.")]
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return [item for i, inner in enumerate(value) for item in _flatten(inner, f"{prefix}{i}.")]
    return [(prefix.removesuffix("."), value)]
