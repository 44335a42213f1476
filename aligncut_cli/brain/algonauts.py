"""Reads one subject of the Algonauts 2023 release: fMRI of both hemispheres, image names and ROI masks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain.arrays import open_npy
from aligncut_cli.brain.table import Responses
from aligncut_cli.brain.unpickle import read_label_mapping
from aligncut_cli.errors import BadInput

HEMISPHERES = ("lh", "rh")

# The release's sub-areas, merged into the paper's 12 names; RSC, mTL-*, aTL-*, mfs-words and the streams are left out.
SUB_AREAS: dict[str, tuple[str, ...]] = {
    "V1": ("V1v", "V1d"),
    "V2": ("V2v", "V2d"),
    "V3": ("V3v", "V3d"),
    "V4": ("hV4",),
    "EBA": ("EBA",),
    "FBA": ("FBA-1", "FBA-2"),
    "OFA": ("OFA",),
    "FFA": ("FFA-1", "FFA-2"),
    "OPA": ("OPA",),
    "PPA": ("PPA",),
    "OWFA": ("OWFA",),
    "VWFA": ("VWFA-1", "VWFA-2"),
}

_IMAGE = re.compile(r"train-(\d+)_nsd-\d+\.(png|jpg|jpeg)", re.IGNORECASE)


def find_subject(path: Path) -> Path | None:
    """Return the subject's folder if `path` is one, its training_split, or a release with a single subject."""
    if not path.is_dir():
        return None
    for candidate in (path, path.parent if path.name == "training_split" else path):
        if (candidate / "training_split" / "training_fmri").is_dir():
            return candidate
    subjects = [child for child in sorted(path.iterdir()) if (child / "training_split" / "training_fmri").is_dir()]
    if len(subjects) > 1:
        raise BadInput(
            f"{path}: holds {len(subjects)} subjects ({', '.join(child.name for child in subjects)}).",
            do=f"Choose one: --responses {subjects[0]}",
        )
    return subjects[0] if subjects else None


def read_subject(subject: Path) -> Responses:
    """Read the left then the right hemisphere; row k belongs to the image whose name starts train-000k.

    subject : folder with training_split/ and, if there are ROIs, roi_masks/
    """
    folder = subject / "training_split"
    files = [folder / "training_fmri" / f"{side}_training_fmri.npy" for side in HEMISPHERES]
    blocks = tuple(open_npy(file, axes=("images", "voxels")) for file in files)
    if len(blocks[0]) != len(blocks[1]):
        raise BadInput(
            f"{files[0].parent}: the left hemisphere has {len(blocks[0]):,} images, the right {len(blocks[1]):,}.",
            do="Fetch both files again from the same subject.",
        )
    ids = _read_image_names(folder / "training_images", n_rows=len(blocks[0]))
    widths = [block.shape[1] for block in blocks]
    rois, left_out = _read_roi_masks(subject / "roi_masks", widths)
    record = {
        "form": "algonauts2023",
        "subject": subject.name,
        "joined_by": "image name",
        "hemispheres": {side: [sum(widths[:k]), sum(widths[: k + 1])] for k, side in enumerate(HEMISPHERES)},
        "sub_areas_left_out": left_out,
    }
    return Responses(blocks, np.arange(sum(widths)), ids, rois, None, record)


def _read_image_names(folder: Path, *, n_rows: int) -> list[str]:
    """Names by the number in them: train-0003_nsd-00028 is row 3, counted from 1."""
    if not folder.is_dir():
        raise BadInput(
            f"{folder}: no such folder.",
            why="The names of the training images say which row of the fMRI is theirs.",
            do="Unpack training_split completely, or use --responses FILE.npy with --image-ids.",
        )
    names: dict[int, str] = {}
    for file in sorted(folder.iterdir()):
        match = _IMAGE.fullmatch(file.name)
        if match is None:
            continue
        number = int(match[1])
        if number in names:
            raise BadInput(f"{folder}: both {names[number]} and {file.stem} claim row {number}.")
        names[number] = file.stem
    if len(names) != n_rows:
        raise BadInput(
            f"{folder}: holds {len(names):,} training images, but the fMRI has {n_rows:,} rows.",
            do="Fetch the subject again; images and fMRI must come from the same one.",
        )
    missing = [row for row in range(1, n_rows + 1) if row not in names]
    if missing:
        raise BadInput(f"{folder}: no image is called train-{missing[0]:04d}_nsd-*, so row {missing[0]} has no image.")
    return [names[row] for row in range(1, n_rows + 1)]


def _read_roi_masks(folder: Path, widths: list[int]) -> tuple[dict[str, npt.NDArray[np.bool_]], list[str]]:
    """Merge sub-areas and hemispheres; a ROI without voxels stays, empty, and no folder means no ROIs."""
    if not folder.is_dir():
        return {}, []
    kinds = sorted(file.stem.removeprefix("mapping_") for file in folder.glob("mapping_*.npy"))
    area_of = {sub_area: area for area, sub_areas in SUB_AREAS.items() for sub_area in sub_areas}
    rois = {area: np.zeros(sum(widths), dtype=bool) for area in SUB_AREAS}
    left_out: set[str] = set()
    found = False
    for kind in kinds:
        files = [folder / f"{side}.{kind}_challenge_space.npy" for side in HEMISPHERES]
        present = [file.is_file() for file in files]
        if not any(present):
            continue
        if not all(present):
            raise BadInput(f"{files[present.index(False)]}: is missing, while the other hemisphere's is there.")
        found = True
        mapping = read_label_mapping(folder / f"mapping_{kind}.npy")
        start = 0
        for file, width in zip(files, widths, strict=True):
            labels = np.asarray(open_npy(file, axes=("voxels",)))
            if len(labels) != width:
                raise BadInput(f"{file}: labels {len(labels):,} voxels, but this hemisphere's fMRI has {width:,}.")
            unknown = np.setdiff1d(labels, [0, *mapping])
            if len(unknown):
                raise BadInput(f"{file}: holds label {unknown[0]:g}, which mapping_{kind}.npy does not name.")
            for label, name in mapping.items():
                if name in area_of:
                    rois[area_of[name]][start : start + width] |= labels == label
                elif label != 0:
                    left_out.add(name)
            start += width
    return (rois if found else {}), sorted(left_out)
