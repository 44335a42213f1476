"""Reads assemblies as Brain-Score and xarray save them: presentation x neuroid in netCDF, with names as coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain.arrays import check_array
from aligncut_cli.brain.files import AXES, require_package
from aligncut_cli.errors import BadInput
from aligncut_cli.images.guard import reading, require_file, require_memory

SUFFIX = ".nc"
PRESENTATION, NEUROID = "presentation", "neuroid"
IMAGE_COORDINATES = ("stimulus_id", "image_id", "stimulus", "image_file_name", "filename", "object_name")
REGION = "region"
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Variable:
    """An array of a netCDF file and the names of its axes."""

    values: npt.NDArray[Any]
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Assembly:
    """Responses to presentations.

    values : (presentations, neuroids)
    names  : (presentations,) the image of each
    rois   : name -> (neuroids,)
    """

    values: npt.NDArray[np.float32]
    names: list[str]
    rois: Mapping[str, npt.NDArray[np.bool_]]


def read_assembly(path: Path) -> Assembly:
    """Read responses, the image of every presentation, and the regions of the neuroids where they are named.

    raises : BadInput where there is no array over presentation and neuroid, or it has several time bins
    """
    require_file(path)
    with path.open("rb") as stream:
        new = stream.read(len(_HDF5)) == _HDF5
    variables = _read_hdf5(path) if new else _read_classic(path)
    found = {name: item for name, item in variables.items() if {PRESENTATION, NEUROID} <= set(item.axes)}
    if len(found) != 1:
        shown = ", ".join(f"{name} ({', '.join(item.axes)})" for name, item in variables.items())
        raise BadInput(
            f"{path}: holds {len(found) or 'no'} arrays over {PRESENTATION} and {NEUROID}.",
            why=f"It holds {shown or 'nothing'}.",
            do="Save one assembly of Brain-Score's kind: assembly.reset_index('presentation').to_netcdf(path)",
        )
    values = _order_axes(path, next(iter(found.values())))
    names = next((variables[name] for name in IMAGE_COORDINATES if name in variables), None)
    if names is None or names.axes != (PRESENTATION,):
        raise BadInput(
            f"{path}: which image each presentation showed is not known.",
            why=f"No coordinate of {PRESENTATION} is called {' or '.join(IMAGE_COORDINATES[:2])}.",
            do="Save it with the coordinate stimulus_id.",
        )
    region = variables.get(REGION)
    named = [] if region is None or region.axes != (NEUROID,) else [_text(value) for value in region.values]
    rois = {name: np.array([other == name for other in named]) for name in dict.fromkeys(named) if name}
    return Assembly(values, [_text(value) for value in names.values], rois)


def _order_axes(path: Path, found: Variable) -> npt.NDArray[np.float32]:
    """Return (presentation, neuroid); other axes must have one place."""
    others = [axis for axis in found.axes if axis not in (PRESENTATION, NEUROID)]
    long = [axis for axis, length in zip(found.axes, found.values.shape, strict=True) if axis in others and length > 1]
    if long:
        raise BadInput(
            f"{path}: has several places along {', '.join(long)}.",
            do=f"Choose or average: assembly.mean({long[0]!r}), then save it again.",
        )
    order = [found.axes.index(axis) for axis in (PRESENTATION, NEUROID, *others)]
    values = found.values.transpose(order)
    values = values.reshape(values.shape[:2])
    check_array(path, values, axes=AXES)
    return np.asarray(values, dtype=np.float32)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _read_hdf5(path: Path) -> dict[str, Variable]:
    """Read every variable of a netCDF-4 file, which is HDF5 whose dimensions are datasets."""
    h5py = require_package("h5py", path)
    found = {}
    with reading(path, "a netCDF file"), h5py.File(path, "r") as file:
        for name, item in file.items():
            if not isinstance(item, h5py.Dataset) or not item.shape:
                continue
            axes = tuple(scale[0].name.rpartition("/")[2] if len(scale) else "" for scale in item.dims)
            if item.is_scale and axes == ("",):
                axes = (name,)
            require_memory(path, 2 * item.dtype.itemsize * int(np.prod(item.shape, dtype=object)))
            found[name] = Variable(np.asarray(item[...]), axes)
    return found


def _read_classic(path: Path) -> dict[str, Variable]:
    """Read every variable of a netCDF-3 file; text is stored as letters along an axis of its own."""
    from scipy.io import netcdf_file

    require_memory(path, 2 * path.stat().st_size)
    found = {}
    with reading(path, "a netCDF file"), netcdf_file(path, "r", mmap=False) as file:
        for name, item in file.variables.items():
            values, axes = np.array(item.data), tuple(item.dimensions)
            if values.dtype.kind == "S" and values.ndim > 1:
                letters = values.reshape(-1, values.shape[-1])
                joined = [b"".join(row.tolist()).rstrip(b"\0") for row in letters]
                values, axes = np.array(joined, dtype=object).reshape(values.shape[:-1]), axes[:-1]
            elif values.dtype.byteorder == ">":
                values = values.astype(values.dtype.newbyteorder("="))
            found[name] = Variable(values, axes)
    return found
