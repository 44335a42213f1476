"""Creates the arrays of a store: dimension names, chunks, checksums; every chunk is written, even if it is constant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from aligncut_cli.errors import BadInput
from aligncut_cli.store.chunks import read_array, written_chunks
from aligncut_cli.store.files import FRAGMENT, sync_all

CHUNK_BYTES = 5_000_000
NOT_NAMES = ("zarr.json", "c", "", ".", "..")
"""What no group or array can be called, because Zarr's own files are called so."""


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
        """Write whole chunks; when this returns, the data is on the disk."""
        array = self.array(name)
        array[selection] = values
        chunks = written_chunks(self.path, array, selection)
        sync_all([*chunks, *{chunk.parent for chunk in chunks}])

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

    raises : BadInput where Zarr's own files have the name
    """
    clash = next((p for p in name.split("/") if p in NOT_NAMES or p.endswith(FRAGMENT) or p.startswith("__")), None)
    if clash is not None:
        raise BadInput(
            f"{clash!r} cannot name something in a store", why="A file of Zarr's is called so.", do="Rename it."
        )
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
