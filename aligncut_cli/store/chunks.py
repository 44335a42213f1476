"""Chunks of Zarr arrays as files: their checksums, and reading that names the one at fault."""

from __future__ import annotations

import base64
import errno
import itertools
import math
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligncut_cli.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    import zarr

CHECKSUM_BYTES = 4
REPAIR = "The store is damaged. Make it again, with --overwrite."


class DamagedChunk(Exception):
    """A chunk file that is missing or not what was written; says why in a few words."""


def chunk_grid(shape: tuple[int, ...], chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many chunks an array has along each axis."""
    return tuple(-(-length // size) for length, size in zip(shape, chunks, strict=True))


def read_checksum(file: Path | str) -> bytes:
    """Return the CRC-32C that a chunk file ends with, 4 bytes, little-endian, without reading the rest.

    raises : DamagedChunk where there is no such file, or something that is no ordinary file
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise DamagedChunk("it is missing" if error.errno == errno.ENOENT else str(error.strerror)) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedChunk("it is not a file")
        if status.st_size < CHECKSUM_BYTES:
            raise DamagedChunk("it is cut short")
        return os.pread(handle, CHECKSUM_BYTES, status.st_size - CHECKSUM_BYTES)
    finally:
        os.close(handle)


def check_chunk(file: Path | str) -> bytes:
    """Read a chunk file whole, hold it against its own checksum, and return that; see `read_checksum`."""
    import google_crc32c

    stored = read_checksum(file)
    with open(file, "rb") as stream:
        content = stream.read(os.fstat(stream.fileno()).st_size - CHECKSUM_BYTES)
    if struct.pack("<I", google_crc32c.value(content)) != stored:
        raise DamagedChunk("its checksum is wrong")
    return stored


def chunk_files(array_folder: Path, grid: tuple[int, ...]) -> Iterator[str]:
    """Give the file of every chunk of an array, in C order of the grid."""
    start = os.path.join(array_folder, "c")
    for coordinates in itertools.product(*map(range, grid)):
        yield "/".join([start, *map(str, coordinates)])


def pack_checksums(array_folder: Path, grid: tuple[int, ...]) -> str:
    """Return the checksums of all chunks of an array as the record keeps them: base64 of 4 bytes each, in C order.

    raises : DamagedChunk where one is missing
    """
    parts = []
    for file in chunk_files(array_folder, grid):
        try:
            parts.append(read_checksum(file))
        except DamagedChunk as fault:
            raise DamagedChunk(f"{file}: {fault}") from None
    return base64.b64encode(b"".join(parts)).decode()


def unpack_checksums(text: str) -> bytes:
    """Return what `pack_checksums` packed, 4 bytes per chunk; ValueError where it is no such text."""
    return base64.b64decode(text, validate=True)


def read_array(
    path: Path, array: zarr.Array[Any], selection: Any, checksums: bytes | None = None
) -> np.ndarray[Any, Any]:
    """Read a selection; a chunk that is missing, damaged or not the one that was written there is an error naming it.

    path      : of the store
    selection : slices and integers per axis, as for numpy; or `...`
    checksums : of all chunks, as `unpack_checksums` gives them
    """
    import numpy as np

    grid = chunk_grid(array.shape, array.chunks)
    for coordinates in _chunk_coordinates(array, selection):
        try:
            found = read_checksum(_chunk_file(path, array, coordinates))
        except DamagedChunk as fault:
            raise _damaged(path, array, coordinates, str(fault)) from None
        if checksums is not None:
            at = CHECKSUM_BYTES * _flat_index(coordinates, grid)
            if found != checksums[at : at + CHECKSUM_BYTES]:
                raise _damaged(path, array, coordinates, "it is not the chunk that was written there")
    try:
        return np.asarray(array[selection])
    except Exception as error:  # whatever a codec raises
        if _is_short_of_memory(error, array):
            raise
        raise _find_damage(path, array, selection, error) from error


def _is_short_of_memory(error: Exception, array: zarr.Array[Any]) -> bool:
    """Tell true want of memory from a damaged chunk of text, whose first bytes say how many texts there are."""
    return isinstance(error, MemoryError) and array.dtype.kind in "biufc"


def _find_damage(path: Path, array: zarr.Array[Any], selection: Any, error: Exception) -> BadInput:
    """Find which chunk of a failed read is at fault."""
    for coordinates in _chunk_coordinates(array, selection):
        part = tuple(
            slice(i * size, min((i + 1) * size, length))
            for i, size, length in zip(coordinates, array.chunks, array.shape, strict=True)
        )
        try:
            array[part]
        except Exception as fault:  # whatever a codec raises
            if _is_short_of_memory(fault, array):
                raise
            return _damaged(path, array, coordinates, str(fault))
    return BadInput(f"{path}: array {array.name!r} cannot be read: {error}", do="Make the store again.")


def _damaged(path: Path, array: zarr.Array[Any], coordinates: tuple[int, ...], why: str) -> BadInput:
    chunk = _chunk_file(path, array, coordinates).relative_to(path)
    lost = why == "it is missing"
    return BadInput(
        f"{path}: array {array.name!r} has {'lost a chunk' if lost else 'a damaged chunk'}: {chunk}",
        why="" if lost else why,
        do=REPAIR,
    )


def _flat_index(coordinates: tuple[int, ...], grid: tuple[int, ...]) -> int:
    return sum(index * math.prod(grid[axis + 1 :]) for axis, index in enumerate(coordinates))


def _chunk_coordinates(array: zarr.Array[Any], selection: Any) -> Iterator[tuple[int, ...]]:
    items = (slice(None),) * array.ndim if selection is Ellipsis else selection
    items = items if isinstance(items, tuple) else (items,)
    items = (*items, *(slice(None),) * (array.ndim - len(items)))
    ranges = []
    for item, size, length in zip(items, array.chunks, array.shape, strict=True):
        start, stop, _ = item.indices(length) if isinstance(item, slice) else (int(item), int(item) + 1, 1)
        ranges.append(range(start // size, -(-stop // size)) if stop > start else range(0))
    return itertools.product(*ranges)


def _chunk_file(path: Path, array: zarr.Array[Any], coordinates: tuple[int, ...]) -> Path:
    return path / array.path / array.metadata.encode_chunk_key(coordinates)


def written_chunks(path: Path, array: zarr.Array[Any], selection: Any) -> list[Path]:
    """Return the files of the chunks that a selection touches."""
    return [_chunk_file(path, array, coordinates) for coordinates in _chunk_coordinates(array, selection)]
