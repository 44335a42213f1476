"""One table of responses out of any one file: numpy, CSV, MATLAB, HDF5 or a volume or surface of neuroimaging."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain.arrays import check_array, list_npz, load_npz, open_npy
from aligncut_cli.brain.rows import Block, LazyRows, flatten_rows
from aligncut_cli.brain.text import NAME_COLUMNS, read_text_table, to_number
from aligncut_cli.errors import BadInput
from aligncut_cli.images.guard import reading, require_file, require_memory

AXES = ("images", "voxels")
DATASET = "::"
NAMES_IN_NPZ = ("ids", "image_ids", "images", "names")


@dataclass(frozen=True)
class Table:
    """Values (rows, voxels) of one file, and what its rows are called where the file says so."""

    values: Block
    names: list[str] | None = None


def split_dataset(path: Path) -> tuple[Path, str]:
    """Split FILE::DATASET; the dataset is empty where none is named."""
    file, mark, dataset = str(path).rpartition(DATASET)
    return (Path(file), dataset) if mark and not path.exists() else (path, "")


def suffix_of(path: Path) -> str:
    """Return the suffix that decides how a file is read, `.nii.gz` whole."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def open_table(path: Path) -> Table:
    """Open a table of responses, images x voxels; large ones are read row by row when they are asked for.

    path   : a file of one of READERS' suffixes; FILE::NAME chooses an array of several
    raises : BadInput where it is none; OutOfResources where it claims more than the machine holds
    """
    file, name = split_dataset(path)
    require_file(file, do="Give --responses an Algonauts or NSD subject's folder, or a table of images x voxels.")
    reader = READERS.get(suffix_of(file))
    if reader is None:
        raise BadInput(
            f"{file}: responses are not read from {suffix_of(file) or 'a file without suffix'}.",
            do=f"Use one of: {' '.join(READERS)}.",
        )
    if name and reader not in (_read_npz, _read_mat, _read_hdf5):
        raise BadInput(f"{file}: holds one table, and none called {name}.", do=f"Leave {DATASET}{name} out.")
    return reader(file, name)


def _read_npy(path: Path, name: str) -> Table:
    return Table(open_npy(path, axes=AXES))


def _read_npz(path: Path, name: str) -> Table:
    headers = list_npz(path)
    tables = {key: shape for key, (shape, dtype) in headers.items() if len(shape) == 2 and dtype.kind in "fiu"}
    chosen = _choose(path, name, tables, preferred="responses")
    names = next((key for key in NAMES_IN_NPZ if key in headers and headers[key][1].kind == "U"), None)
    values = load_npz(path, chosen)
    check_array(path, values, axes=AXES)
    return Table(values, None if names is None else [str(text) for text in load_npz(path, names)])


def _choose(path: Path, name: str, tables: Mapping[str, tuple[int, ...]], *, preferred: str = "") -> str:
    """Return which of several arrays is meant: the named one, the only one, or the one of a usual name."""
    if name.strip("/") in tables:
        return name.strip("/")
    if not name and (len(tables) == 1 or preferred in tables):
        return preferred if preferred in tables else next(iter(tables))
    shown = ", ".join(f"{key} {' x '.join(map(str, shape))}" for key, shape in list(tables.items())[:8])
    raise BadInput(
        f"{path}: {f'holds no table {name}' if name else 'which table is meant is not known'}.",
        why=f"It holds {shown or 'no array of numbers with two axes or more'}.",
        do=f"Name one: --responses {path}{DATASET}{next(iter(tables))}" if tables else "",
    )


def _read_csv(path: Path, name: str) -> Table:
    table = read_text_table(path)
    column = table.column(*NAME_COLUMNS)
    header, rows = table.header, table.rows
    if header is None and len(rows) > 1 and not _are_numbers(rows[0][1:]):
        header, rows = [cell.lower() for cell in rows[0]], rows[1:]
    if column is None and not _are_numbers([row[0] for row in rows]):
        column = 0
    width = len(header) if header else len(rows[0])
    ragged = [number for number, row in enumerate(rows, 1) if len(row) != width]
    if not rows or ragged:
        raise BadInput(f"{path}: row {ragged[0] if ragged else 1} has not {width} cells like the first one.")
    # pandas writes the number of the row under an empty name
    index = 0 if header and header[0] in ("", "unnamed: 0") and column != 0 else None
    voxels = [place for place in range(width) if place not in (column, index)]
    require_memory(path, 16 * len(rows) * len(voxels))
    try:
        values = np.array([[to_number(row[place]) for place in voxels] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise BadInput(f"{path}: holds a cell that is no number ({error}).") from error
    check_array(path, values, axes=AXES)
    return Table(values, None if column is None else [row[column] for row in rows])


def _are_numbers(cells: list[str]) -> bool:
    try:
        return bool([to_number(cell) for cell in cells]) or not cells
    except ValueError:
        return False


def _read_mat(path: Path, name: str) -> Table:
    with path.open("rb") as stream:
        head = stream.read(512)
    if b"MATLAB 7.3" in head or head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_hdf5(path, name, matlab=True)
    from scipy.io import loadmat, whosmat

    kinds = ("double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
    with reading(path, "a MATLAB file"):
        found = {key: tuple(map(int, shape)) for key, shape, kind in whosmat(path) if kind in kinds}
    tables = {key: shape for key, shape in found.items() if len(shape) > 1}
    chosen = _choose(path, name, tables, preferred="responses")
    require_memory(path, 16 * int(np.prod(tables[chosen], dtype=object)))
    with reading(path, "a MATLAB file"):
        values = np.asarray(loadmat(path, variable_names=[chosen])[chosen])
    if values.ndim > 2:  # a volume per trial, trials last
        values = values.reshape(-1, values.shape[-1], order="F").T
    check_array(path, values, axes=AXES)
    return Table(values)


def _read_hdf5(path: Path, name: str, *, matlab: bool = False) -> Table:
    """Open a dataset; MATLAB stores axes reversed, so that its table of images x voxels is voxels x images here."""
    h5py = require_package("h5py", path)
    file = _open_hdf5(h5py, path)
    tables: dict[str, tuple[int, ...]] = {}

    def collect(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and len(item.shape or ()) > 1 and item.dtype.kind in "fiu":
            tables[key] = tuple(map(int, item.shape))

    with reading(path, "an HDF5 file"):
        file.visititems(collect)
        chosen = _choose(path, name, tables, preferred="betas" if "betas" in tables else "responses")
        data = file[chosen]
    shape = tables[chosen]
    if 0 in shape:
        raise BadInput(f"{path}: {chosen} is empty, shape {shape}.")
    turned = matlab and len(shape) == 2
    n_rows = shape[1] if turned else shape[0]
    n_voxels = int(np.prod(shape, dtype=object)) // n_rows
    require_memory(path, n_voxels * 4)

    def fetch(start: int, stop: int) -> npt.NDArray[Any]:
        with reading(path, f"HDF5: {chosen} is damaged"):
            return np.asarray(data[:, start:stop].T if turned else flatten_rows(data[start:stop]))

    return Table(LazyRows((n_rows, n_voxels), data.dtype, fetch, volume=len(shape) > 2))


def _open_hdf5(h5py: Any, path: Path) -> Any:
    with reading(path, "an HDF5 file", do="Fetch it again: it may be truncated."):
        return h5py.File(path, "r")


def _read_image(path: Path, name: str) -> Table:
    """Open a NIfTI or FreeSurfer file: the last axis counts the trials, the others the voxels, in numpy's order."""
    nibabel = require_package("nibabel", path)
    with reading(path, "a NIfTI or FreeSurfer file"):
        image = nibabel.load(path)
        shape = tuple(map(int, image.shape))
    n_rows = shape[-1] if len(shape) > 3 else 1
    n_voxels = int(np.prod(shape[:3], dtype=object))
    if not n_rows or not n_voxels:
        raise BadInput(f"{path}: is empty, shape {shape}.")
    require_memory(path, n_voxels * 4)

    def fetch(start: int, stop: int) -> npt.NDArray[Any]:
        with reading(path, "a NIfTI or FreeSurfer file: it is damaged"):
            data = np.asarray(image.dataobj[..., start:stop] if len(shape) > 3 else image.dataobj)
            return data.reshape(n_voxels, -1).T.astype(np.float32)

    return Table(LazyRows((n_rows, n_voxels), np.dtype(np.float32), fetch, volume=True))


def _read_gifti(path: Path, name: str) -> Table:
    """Read a GIFTI surface: an array of vertices per trial, or one of vertices x trials."""
    nibabel = require_package("nibabel", path)
    require_memory(path, 8 * path.stat().st_size)
    with reading(path, "a GIFTI file"):
        arrays = [np.asarray(item.data) for item in nibabel.load(path).darrays]
        values = arrays[0].T if len(arrays) == 1 and arrays[0].ndim == 2 else np.stack(arrays)
    check_array(path, values, axes=AXES)
    return Table(values)


def require_package(name: str, path: Path) -> Any:
    """Import an optional reader, or say how to get it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadInput(f"{path}: reading it needs {name}, which is not installed.", do=f"pip install {name}") from error


READERS: dict[str, Callable[[Path, str], Table]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".mat": _read_mat,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".nii": _read_image,
    ".nii.gz": _read_image,
    ".mgh": _read_image,
    ".mgz": _read_image,
    ".gii": _read_gifti,
}
