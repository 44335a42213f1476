"""Creates the arrays of a store: dimension names, chunks, checksums; every chunk is written, even if it is constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from aligncut_cli.store.nodes import ModelAxes, NodeAxes
from aligncut_cli.store.read import read_array

CHUNK_BYTES = 5_000_000


def create_group(path: Path) -> zarr.Group:
    """Create an empty Zarr v3 group, replacing what an interrupted creation left."""
    return zarr.open_group(path, mode="w", zarr_format=3)


class Writer:
    """A store under construction; arrays are opened once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays: dict[str, zarr.Array[Any]] = {}

    def array(self, name: str) -> zarr.Array[Any]:
        """Return an array, set to write every chunk, so that a missing chunk is always damage."""
        if name not in self._arrays:
            array = zarr.open_array(self.path, path=name, mode="r+")  # which ignores `config`
            self._arrays[name] = array.with_config({"write_empty_chunks": True})
        return self._arrays[name]

    def write(self, name: str, selection: Any, values: Any) -> None:
        """Write whole chunks; when this returns, the data is with the operating system."""
        self.array(name)[selection] = values

    def read(self, name: str, selection: Any = ...) -> np.ndarray[Any, Any]:
        """Read back what an earlier phase wrote, with the checks of a finished store."""
        return read_array(self.path, self.array(name), selection)


def create_array(
    group: zarr.Group,
    name: str,
    *,
    shape: Sequence[int],
    dtype: Any,
    dims: Sequence[str],
    chunks: Sequence[int] | None = None,
) -> zarr.Array[Any]:
    """Create one array; `name` may hold slashes.

    Floats do not compress, so they are stored as they are; integers, flags and strings are compressed
    with zstd. Every chunk carries a CRC-32C, so that a truncated or flipped one is noticed on reading.
    """
    plain = np.dtype(dtype).kind == "f" if dtype is not str else False
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(max(1, n) for n in (chunks or shape)),
        dimension_names=list(dims),
        compressors=[Crc32cCodec()] if plain else [ZstdCodec(level=3), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )


def put(
    group: zarr.Group, name: str, values: np.ndarray[Any, Any], dims: Sequence[str], chunks: Sequence[int] | None = None
) -> None:
    """Create a small array and write it."""
    dtype = str if values.dtype.kind in "OUT" else values.dtype
    array = create_array(group, name, shape=values.shape, dtype=dtype, dims=dims, chunks=chunks)
    if values.size:
        array[...] = values


def put_images(group: zarr.Group, images: Mapping[str, np.ndarray[Any, Any]], attributes: Mapping[str, Any]) -> None:
    """Write `images/`: id, path, height and width of every image, in node order; carried from store to store."""
    folder = group.create_group("images", attributes=dict(attributes))
    for name in ("id", "path", "height", "width"):
        put(folder, name, images[name], ["image"])


def create_node_arrays(
    group: zarr.Group,
    axes: NodeAxes,
    name: str,
    *,
    dtype: Any,
    last: tuple[str, int],
    images_per_block: Mapping[str, int],
) -> None:
    """Create `<model>/<name>` [layer, image, token, last] for every model, one chunk per block."""
    for model in axes.models:
        folder = require_model_group(group, model)
        create_array(
            folder,
            name,
            shape=(len(model.layers), model.n_images, model.n_tokens, last[1]),
            dtype=dtype,
            dims=["layer", "image", "token", last[0]],
            chunks=(1, images_per_block[model.name], model.n_tokens, last[1]),
        )


def require_model_group(group: zarr.Group, model: ModelAxes) -> zarr.Group:
    """Return the group of a model, made with the attributes that describe its nodes."""
    if model.name in group:
        return group.require_group(model.name)
    return group.create_group(model.name, attributes=dict(model.attributes))
