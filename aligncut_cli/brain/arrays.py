"""Opens .npy files strictly: no pickles, no truncated files, the expected kind and number of axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from aligncut_cli.errors import BadInput

Array = npt.NDArray[np.generic]

_KINDS = {"number": "fiu", "index or bool": "iub"}


def open_npy(path: Path, *, axes: tuple[str, ...], kind: str = "number") -> Array:
    """Memory-map an .npy file after checking that it is what it should be.

    path : the file
    axes : the meaning of each axis, for the check and for the message
    kind : "number" (floats or integers) or "index or bool"
    returns : read-only memory map with len(axes) axes, none of them empty
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file.", do="Check the path.")
    try:
        array: Array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise BadInput(
            f"{path}: cannot be read as an .npy file.",
            why=f"It is truncated, pickled or of another format ({error}).",
            do="Write it again with numpy.save(path, array) from an array of plain numbers.",
        ) from error
    if array.dtype.kind not in _KINDS[kind]:
        raise BadInput(f"{path}: has dtype {array.dtype}, expected {kind}.", do="Convert it, e.g. with .astype(float).")
    if array.ndim != len(axes):
        raise BadInput(
            f"{path}: has shape {array.shape}, expected {len(axes)} axes ({', '.join(axes)}).",
            do="Reshape the array and save it again.",
        )
    if 0 in array.shape:
        raise BadInput(f"{path}: is empty, shape {array.shape}.")
    return array
