"""Reads named voxel sets (ROIs) from JSON or npz, as indices or as one True/False per voxel."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain.arrays import list_npz, load_npz
from aligncut_cli.errors import BadInput
from aligncut_cli.images.guard import read_text, reading

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def read_rois(path: Path, *, n_voxels: int) -> dict[str, npt.NDArray[np.bool_]]:
    """Read named voxel sets.

    path     : .json {name: [indices] or [true, false, ...]} or .npz with one array per name
    n_voxels : of the responses, before any are dropped
    returns  : name -> (n_voxels,) bool, in the file's order
    """
    if path.suffix.lower() == ".json":
        content = _load_json(path)
    elif path.suffix.lower() == ".npz":
        content = {name: load_npz(path, name) for name in list_npz(path)}
    else:
        raise BadInput(f"{path}: ROIs are read from .json or .npz.")
    return {name: _to_mask(path, name, value, n_voxels) for name, value in content.items()}


def _load_json(path: Path) -> dict[str, Any]:
    text = read_text(path, "JSON", do="Check --rois.")
    with reading(path, "JSON"):
        content = json.loads(text)
    if not isinstance(content, dict):
        raise BadInput(f"{path}: is not a JSON object.", do='Write it as {"V1": [0, 1, 2], "V4": [3, 4]}.')
    return content


def _to_mask(path: Path, name: str, value: object, n_voxels: int) -> npt.NDArray[np.bool_]:
    if not _NAME.fullmatch(name):
        raise BadInput(f"{path}: {name!r} cannot be a ROI's name.", do="Use letters, digits and _ . + - only.")
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise BadInput(f"{path}: ROI {name} is not one flat list.") from error
    if array.ndim != 1:
        raise BadInput(f"{path}: ROI {name} is not one flat list.")
    if array.size == 0:
        return np.zeros(n_voxels, dtype=bool)
    if array.dtype == bool:
        if len(array) != n_voxels:
            raise BadInput(f"{path}: ROI {name} has {len(array):,} entries, but there are {n_voxels:,} voxels.")
        return array.copy()
    if array.dtype.kind not in "iu" or (isinstance(value, list) and any(isinstance(item, bool) for item in value)):
        raise BadInput(f"{path}: ROI {name} holds neither indices nor only true and false.")
    if array.min() < 0 or array.max() >= n_voxels:
        raise BadInput(
            f"{path}: ROI {name} has indices from {array.min()} to {array.max()}, but there are {n_voxels:,} voxels.",
            why="Voxels count from 0.",
        )
    mask = np.zeros(n_voxels, dtype=bool)
    mask[array] = True
    return mask
