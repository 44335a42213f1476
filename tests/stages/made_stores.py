"""Stores made by hand, whose answers are known: eigs, tsne, features and alignment in the layout of the contract."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from aligncut_cli.store.kinds import alignment, eigs, features, tsne
from aligncut_cli.store.kinds.base import PER_BLOCK, put_images
from aligncut_cli.store.write import create_group

Arrays = Mapping[str, NDArray[Any]]
NODES = {"features": features.TOKENS, "eigs": eigs.EIGVECS, "tsne": tsne.COORDS}


def finish(root: zarr.Group, path: Path, kind: str, models: Sequence[str], **more: Any) -> Path:
    """Write a record such as a stage would have, whose digest is that of the content."""
    content = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            content.update(file.read_bytes())
    root.attrs["aligncut"] = {
        "kind": kind,
        "schema": 1,
        "stage": "made",
        "version": 1,
        "models": list(models),
        "params": {},
        "inputs": [],
        "digest": content.hexdigest(),
        **more,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(path))
    return path


def unseal(path: Path) -> Path:
    """Take the checksums of chunks out of a store's record, as somebody would who forges its arrays."""
    file = path / "zarr.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["attributes"]["aligncut"].pop("manifest", None)
    file.write_text(json.dumps(content), encoding="utf-8")
    return path


def make_node_store(
    path: Path,
    kind: str,
    values: Arrays,
    *,
    grid: tuple[int, int],
    ids: Sequence[str] | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    photos: Path | None = None,
    images_per_chunk: int = 4,
    layers: Sequence[int] | None = None,
    group: str = "all",
    **more: Any,
) -> Path:
    """Write the kind's array of nodes (layer, image, token, last) with a class token, and what goes with it."""
    root = create_group(path)
    n_images = next(iter(values.values())).shape[1]
    names = list(ids or [f"image-{index:03d}" for index in range(n_images)])
    heights, widths = zip(*(sizes or [(48, 48)] * n_images), strict=True)
    put_images(
        root,
        {
            "id": np.array(names, dtype=object),
            "path": np.array([str((photos or path) / f"{name}.png") for name in names], dtype=object),
            "height": np.array(heights, dtype=np.int32),
            "width": np.array(widths, dtype=np.int32),
        },
        {},
    )
    for name, rows in values.items():
        n_layers, _, n_tokens, _ = rows.shape
        assert n_tokens == grid[0] * grid[1] + 1
        attributes = {
            "timm": "made",
            "layers": list(layers or range(n_layers)),
            "grid": list(grid),
            "class_token": True,
            "n_images": n_images,
            "n_tokens": n_tokens,
        }
        root.create_group(name, attributes=attributes)
        declared = NODES[kind]
        sizes = dict(zip(declared.axes, rows.shape, strict=True)) | {PER_BLOCK: images_per_chunk}
        declared.create(root, sizes, name)[...] = rows.astype(declared.dtype)
    first = next(iter(values.values()))
    if kind == "eigs":
        eigs.EIGENVALUES.put(root, np.linspace(1, 0.5, first.shape[3])[None])
    if kind == "tsne":
        sample = first[0, :, 1:].reshape(1, -1, first.shape[3])[:, :500].astype(np.float32)
        tsne.SAMPLE_NODE.put(root, np.arange(sample.shape[1])[None])
        tsne.SAMPLE_COORDS.put(root, sample)
    record = {"params": {"group": group, "dims": first.shape[3]}, **more}
    return finish(root, path, kind, list(values), **record)


def make_alignment(
    path: Path,
    weights: Mapping[str, tuple[Sequence[int], NDArray[Any]]],
    readout: NDArray[Any] | None,
    rois: Arrays,
    *,
    deviation: NDArray[Any] | None = None,
    more_arrays: Arrays = MappingProxyType({}),
    **more: Any,
) -> Path:
    """Write an alignment: by model its layers and W (layer, channel, universal); beta (universal, voxel); ROIs.

    readout     : None for an alignment that no brain took part in
    deviation   : (universal,) of the pooled channels; None for an older alignment, which has none
    more_arrays : by their paths in the store, such as those of several fits
    """
    root = create_group(path)
    for name, (layers, weight) in weights.items():
        root.create_group(name, attributes={"layers": list(layers)})
        alignment.WEIGHT.put(root, weight.astype(np.float32), name)
    if readout is not None:
        alignment.READOUT.put(root, readout.astype(np.float32))
        alignment.BIAS.put(root, np.zeros(readout.shape[1], np.float32))
        alignment.R2.put(root, np.zeros(readout.shape[1], np.float32))
    if deviation is not None:
        alignment.DEVIATION.put(root, deviation.astype(np.float32))
    for name, values in more_arrays.items():
        declared = alignment.FIT_READOUT if name == alignment.FIT_READOUT.at() else alignment.FIT_WEIGHT
        declared.put(root, values.astype(np.float32), *([] if not declared.fields else [name.split("/")[1]]))
    for name, voxels in rois.items():
        alignment.ROI.put(root, voxels, name)
    return finish(root, path, "alignment", list(weights), **more)
