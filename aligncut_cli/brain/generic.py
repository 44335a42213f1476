"""Finds responses in any other layout than Algonauts': one table, a pair of hemispheres, or NSD's sessions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain import assembly, stringer
from aligncut_cli.brain.files import AXES, READERS, Table, open_table, split_dataset, suffix_of
from aligncut_cli.brain.ids import read_image_ids
from aligncut_cli.brain.rows import Block, stack_rows
from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.images.guard import require_file

SIDES = {"lh": "lh", "left": "lh", "rh": "rh", "right": "rh"}
TRIAL_TABLES = ("responses.tsv", "nsd_stim_info_merged.csv")

_SESSION = re.compile(r"betas_session0*(\d+)\.", re.IGNORECASE)
_SIDE = re.compile(r"(?:^|(?<=[._-]))(lh|rh|left|right)(?=[._-])", re.IGNORECASE)
_SUBJECT = re.compile(r"subj(?:ect)?0*(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """Rows of responses as they lie on disk.

    blocks  : (rows, voxels) side by side
    names   : one per row, or None
    record  : the form, the files, and by what rows and images are joined
    trials  : whether rows are single trials, so that those of one image are averaged
    ceiling : NSD's ncsnr files beside the betas, one per block, or none
    rois    : regions that the file names, (voxels,)
    """

    blocks: tuple[Block, ...]
    names: list[str] | None
    record: dict[str, Any]
    trials: bool = False
    ceiling: tuple[Path, ...] = ()
    rois: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)


def read_generic(path: Path, *, image_ids: Path | None) -> Layout:
    """Open a table, a recording with names of its own, or a folder: NSD's betas, a pair lh and rh, or responses.* .

    path      : a file of one of READERS' suffixes, FILE::DATASET, or a folder
    image_ids : which image each row belongs to; otherwise the table's own names, if it has any
    """
    if not path.is_dir():
        recording = _read_named(path)
        if recording is None:
            return _read_tables([path], image_ids)
        if image_ids is not None:
            raise UsageError(f"--image-ids cannot be given for {path.name}: the file says which image each row is of.")
        return recording
    files = sorted(file for file in path.iterdir() if suffix_of(file) in READERS and not file.name.startswith("."))
    sessions = [file for file in files if _SESSION.search(file.name)]
    if sessions:
        return _read_sessions(path, sessions, files, image_ids)
    named = [file for file in files if file.name[: -len(suffix_of(file))].lower() == "responses"]
    pairs = _find_pairs(files)
    if len(named) > 1 or (not named and len(pairs) > 1):
        shown = ", ".join(file.name for file in named or [pair[0] for pair in pairs])
        raise BadInput(
            f"{path}: holds several tables of responses ({shown}).",
            do=f"Choose one: --responses {named[0] if named else 'FILE'}",
        )
    if named or pairs:
        return _read_tables(named or pairs[0], image_ids)
    raise BadInput(
        f"{path}: holds no responses.",
        why="It is neither an Algonauts 2023 subject (training_split/training_fmri), nor a folder with NSD's "
        "betas_session01.*, with lh and rh of one table, or with responses.npy.",
        do=f"Give one file: --responses {files[0]}" if files else "Save an array images x voxels with numpy.save.",
    )


def _read_named(path: Path) -> Layout | None:
    """Open single presentations in a form that says which image each showed, or return None."""
    if suffix_of(path) == assembly.SUFFIX:
        found = assembly.read_assembly(path)
        origin = {"form": "assembly", "responses": path.name, "joined_by": "stimulus_id"}
        return Layout((found.values,), found.names, origin, trials=True, rois=found.rois)
    if stringer.is_recording(path):
        values, names = stringer.read_recording(path)
        record: dict[str, Any] = {
            "form": "stringer",
            "responses": path.name,
            "joined_by": "istim",
            "spontaneous_components_removed": stringer.COMPONENTS,
            "unit": "deviations of spontaneous activity",
        }
        return Layout((values,), names, record, trials=True)
    return None


def _find_pairs(files: Sequence[Path]) -> list[list[Path]]:
    """Return [left, right] of every pair of files whose names differ in the side alone."""
    groups: dict[str, dict[str, Path]] = {}
    for file in files:
        match = _SIDE.search(file.name)
        if match and "ncsnr" not in file.name.lower():
            stem = file.name[: match.start()] + "*" + file.name[match.end() :]
            groups.setdefault(stem.lower(), {})[SIDES[match[1].lower()]] = file
    return [[pair["lh"], pair["rh"]] for pair in groups.values() if len(pair) == 2]


def _read_tables(files: Sequence[Path], image_ids: Path | None) -> Layout:
    """Open one table, or those of both hemispheres side by side."""
    tables = [open_table(file) for file in files]
    n_rows = _require_equal([(file, table.values.shape[0]) for file, table in zip(files, tables, strict=True)], AXES[0])
    names = _join_names(files, tables)
    if image_ids is not None:
        names = read_image_ids(image_ids, n_rows=n_rows)
    joined = "image ids" if image_ids is not None else "order of names" if names is None else "the table's own names"
    shown = ", ".join(split_dataset(file)[0].name for file in files)
    record: dict[str, Any] = {"form": "generic", "responses": shown, "joined_by": joined}
    return Layout(tuple(table.values for table in tables), names, record)


def _join_names(files: Sequence[Path], tables: Sequence[Table]) -> list[str] | None:
    named = [table.names for table in tables if table.names is not None]
    if any(names != named[0] for names in named):
        raise BadInput(f"{files[0]} and {files[1]}: their rows have different names.", do="Sort them alike.")
    return named[0] if named else None


def _require_equal(counts: Sequence[tuple[Path, int]], what: str) -> int:
    for file, count in counts[1:]:
        if count != counts[0][1]:
            raise BadInput(
                f"{file}: has {count:,} {what}, but {counts[0][0].name} has {counts[0][1]:,}.",
                do="Fetch both files again from the same subject.",
            )
    return counts[0][1]


def _read_sessions(folder: Path, betas: Sequence[Path], files: Sequence[Path], image_ids: Path | None) -> Layout:
    """Open NSD's single-trial betas: sessions under each other, hemispheres side by side."""
    sides: dict[str, dict[int, Path]] = {}
    for file in betas:
        match, number = _SIDE.search(file.name), _SESSION.search(file.name)
        side = SIDES[match[1].lower()] if match else ""
        taken = sides.setdefault(side, {})
        session = int(number[1]) if number else 0
        if session in taken:
            raise BadInput(f"{folder}: both {taken[session].name} and {file.name} are session {session}.")
        taken[session] = file
    sessions = sorted(next(iter(sides.values())))
    for found in sides.values():
        if sorted(found) != sessions or ("" in sides and len(sides) > 1) or set(sides) in ({"lh"}, {"rh"}):
            raise BadInput(
                f"{folder}: not every session has betas of both hemispheres.",
                why="; ".join(f"{name or 'volume'}: sessions {sorted(of_side)}" for name, of_side in sides.items()),
                do="Fetch what is missing, or move the others away.",
            )
    blocks = []
    for side in sorted(sides):
        parts = [open_table(sides[side][session]).values for session in sessions]
        paths = [sides[side][session] for session in sessions]
        _require_equal([(file, part.shape[1]) for file, part in zip(paths, parts, strict=True)], AXES[1])
        blocks.append(stack_rows(parts))
    table = image_ids or next((folder / name for name in TRIAL_TABLES if (folder / name).is_file()), None)
    if table is None:
        raise BadInput(
            f"{folder}: holds NSD's betas of single trials, and which image each trial showed is not known.",
            do="Name a table with a row per trial and a column nsdId or 73KID: --image-ids responses.tsv",
        )
    require_file(table)
    subject = _SUBJECT.findall(str(folder.resolve()))
    names = read_image_ids(
        table, n_rows=blocks[0].shape[0], sessions=sessions, subject=int(subject[-1]) if subject else None
    )
    record = {"form": "nsd", "sessions": sessions, "joined_by": table.name, "hemispheres": sorted(sides)}
    return Layout(tuple(blocks), names, record, trials=True, ceiling=_find_ncsnr(files, sorted(sides)))


def _find_ncsnr(files: Sequence[Path], sides: Sequence[str]) -> tuple[Path, ...]:
    """Return the noise-ceiling signal-to-noise ratio that NSD ships beside the betas, one file per hemisphere."""
    found = {}
    for file in files:
        if file.name[: -len(suffix_of(file))].lower().split(".")[-1] == "ncsnr":
            match = _SIDE.search(file.name)
            found[SIDES[match[1].lower()] if match else ""] = file
    return tuple(found[side] for side in sides) if all(side in found for side in sides) else ()
