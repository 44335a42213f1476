"""Opens .npy and .npz files strictly: no pickles, no truncated files, the expected kind and number of axes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.errors import BadInput
from aligncut_cli.images.guard import reading, require_file, require_memory

Array = npt.NDArray[np.generic]

_KINDS = {"number": "fiu", "index or bool": "iub"}
_SAVE_AGAIN = "Write it again with numpy.save(path, array) from an array of plain numbers."


def open_npy(path: Path, *, axes: tuple[str, ...], kind: str = "number") -> Array:
    """Memory-map an .npy file after checking that it is what it should be.

    path : the file
    axes : the meaning of each axis, for the check and for the message
    kind : "number" (floats or integers) or "index or bool"
    returns : read-only memory map with len(axes) axes, none of them empty
    """
    require_file(path)
    with reading(path, "an .npy file: it is truncated, pickled or of another format", do=_SAVE_AGAIN):
        array: Array = np.lib.format.open_memmap(path, mode="r")
    check_array(path, array, axes=axes, kind=kind)
    return array


def check_array(path: Path, array: Any, *, axes: tuple[str, ...], kind: str = "number") -> None:
    """Refuse an array, or a dataset that says its shape and dtype, of another kind or number of axes, or empty."""
    if array.dtype.kind not in _KINDS[kind]:
        raise BadInput(f"{path}: has dtype {array.dtype}, expected {kind}.", do="Convert it, e.g. with .astype(float).")
    if len(array.shape) != len(axes):
        raise BadInput(
            f"{path}: has shape {array.shape}, expected {len(axes)} axes ({', '.join(axes)}).",
            do="Reshape the array and save it again.",
        )
    if 0 in array.shape:
        raise BadInput(f"{path}: is empty, shape {array.shape}.")


def list_npz(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and dtype of every array of an .npz, from the headers alone."""
    require_file(path)
    headers = {}
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
            if dtype.hasobject:
                raise BadInput(f"{path}: {member.filename} is pickled, which is not read, for safety.")
            headers[member.filename.removesuffix(".npy")] = (shape, dtype)
    return headers


def load_npz(path: Path, name: str) -> Array:
    """Read one array of an .npz whose header has been listed; what it claims is held against the free memory first."""
    shape, dtype = list_npz(path)[name]
    require_memory(path, dtype.itemsize * int(np.prod(shape, dtype=object)))
    with reading(path, "an .npz file"), np.load(path, allow_pickle=False) as archive:
        loaded: Array = archive[name]
    return loaded
