"""What people call the places along a store's axes: rows and columns of tokens, and the regions of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.store.kinds.alignment import ROI
from aligncut_cli.store.kinds.base import IMAGE_ID, AnyStore
from aligncut_cli.store.nodes import ModelAxes

SCORES = "scores"
NOWHERE = -1
"""Row and column of the class token, which lies nowhere on the grid."""


def place_tokens(
    model: ModelAxes, kept: NDArray[np.int32] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return token, row and column of every token of a model, counted from 0; the class token is at row -1, column -1.

    kept    : (image, token), which tokens each image has, where they were sampled
    returns : three arrays (token,), or (image, token) where they were sampled
    """
    token = np.arange(model.n_tokens) if kept is None else kept.astype(np.int64)
    patch = token - int(model.class_token)
    row, column = np.divmod(patch, model.grid[1])
    return token, np.where(patch < 0, NOWHERE, row), np.where(patch < 0, NOWHERE, column)


def name_voxel_rois(store: AnyStore) -> list[str]:
    """Return for each voxel of an alignment the regions that it belongs to, as `V1` or `V1+FFA`; empty without ROIs."""
    names = store.names(ROI.name.partition("/")[0])
    if not names:
        return []
    member = np.stack([store.read(ROI.at(name)) for name in names], axis=1)
    return ["+".join(name for name, inside in zip(names, row, strict=True) if inside) for row in member]


def name_axis(store: AnyStore, axis: str, length: int, model: str | None) -> list[Any] | None:
    """Return what the places along an axis are called: layer numbers, image ids, names of models, graphs and classes.

    model   : whose group the array is in, if any
    returns : as many names as the axis is long, None where nothing names them
    """
    record = store.record
    group = store.group
    named: Any = []
    if axis == "layer" and model in record["models"]:
        named = group[str(model)].attrs.get("layers", [])
    elif axis == "image" and store.has(IMAGE_ID.at()):
        named = [str(name) for name in store.read(IMAGE_ID.at())]
    elif axis == "model":
        named = record["models"]
    elif axis == "group":
        named = record.get("groups", [])
    elif axis == "class" and SCORES in group:
        named = group[SCORES].attrs.get("classes", [])
    elif axis == "run" and "runs" in group:
        named = group["runs"].attrs.get("runs", [])
    elif axis in ("run", "candidates"):
        named = record.get({"run": "runs"}.get(axis, axis), [])
    elif axis == "roi":
        named = record.get("slot_rois", [])
    elif axis == "bound":
        named = ["value", "low", "high"]
    elif axis == "mask":
        named = record.get("masks", [])
    return list(named) if len(named) == length else None
