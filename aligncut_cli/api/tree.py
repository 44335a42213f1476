"""A store as an xarray DataTree with the names that people use; every chunk is checked when it is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import UsageError
from aligncut_cli.stages.coordinates import name_axis, name_voxel_rois, place_tokens
from aligncut_cli.store.kinds.features import TOKEN
from aligncut_cli.store.provenance import KEY
from aligncut_cli.store.read import Store
from aligncut_cli.store.read import open_store as open_any

if TYPE_CHECKING:
    import xarray

NAMED_AXES = ("layer", "image", "model", "group", "class", "run", "bound", "roi", "mask")


def open_store(path: str | os.PathLike[str]) -> xarray.DataTree:
    """Open a finished store as a DataTree: its groups, with coordinates model, layer, image id, row, column and ROI.

    Arrays are read when they are used, only the chunks that are asked for, each held against its checksum.
    `layer` and `image` are indexes: tree["demo-clip"]["tokens"].sel(layer=5, image="photo-1"). `row` and `column` are
    those of a token on the grid of patches, -1 of the class token; `roi` names a voxel's regions as `V1+FFA`.

    raises : BadInput where it is no finished store, and where a damaged chunk is read; UsageError without xarray
    """
    try:
        import xarray
    except ImportError:
        raise UsageError(
            "open_store needs xarray, which is not installed", do="pip install 'aligncut[notebook]'"
        ) from None
    import zarr

    store = open_any(os.fspath(path))
    members = dict(store.group.members(max_depth=None))
    groups = ["", *(name for name, node in members.items() if isinstance(node, zarr.Group))]
    rois = name_voxel_rois(store) if store.kind == "alignment" else []
    datasets = {}
    for group in groups:
        arrays = {
            name.rpartition("/")[2]: name
            for name, node in members.items()
            if isinstance(node, zarr.Array) and name.rpartition("/")[0] == group
        }
        attributes = members[group].attrs.asdict() if group else {KEY: dict(store.record)}
        variables = {own: _variable(store, name) for own, name in arrays.items()}
        sizes = {str(axis): size for one in variables.values() for axis, size in one.sizes.items()}
        coordinates = _coordinates(store, group, sizes, rois)
        datasets["/" + group] = xarray.Dataset(
            {own: one for own, one in variables.items() if own not in coordinates}, coordinates, attributes
        )
    return xarray.DataTree.from_dict(datasets, name=os.path.basename(os.fspath(path)))


def _variable(store: Store, name: str) -> xarray.Variable:
    """Return an array that is read through `Store.read`, chunk by chunk and checked, when its values are asked for."""
    import xarray
    from xarray.backends import BackendArray
    from xarray.core import indexing

    array = store.array(name)
    dims = [str(axis) for axis in array.metadata.dimension_names or ()]  # type: ignore[union-attr]
    if array.dtype.kind not in "biuf":  # text is small, and wanted as numpy's own
        return xarray.Variable(dims, _as_text(store.read(name)))

    class Checked(BackendArray):
        shape, dtype = array.shape, array.dtype

        def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
            return indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.BASIC, lambda part: store.read(name, part)
            )

    return xarray.Variable(dims, indexing.LazilyIndexedArray(Checked()))


def _as_text(values: NDArray[Any]) -> NDArray[Any]:
    return np.array([str(value) for value in values.ravel()]).reshape(values.shape)


def _coordinates(store: Store, group: str, sizes: dict[str, int], rois: list[str]) -> dict[str, Any]:
    """Return the coordinates of a group, as xarray takes them."""
    model = group.rpartition("/")[2] if group.rpartition("/")[2] in store.record["models"] else None
    found: dict[str, Any] = {}
    for axis in NAMED_AXES:
        names = name_axis(store, axis, sizes[axis], model) if axis in sizes else None
        if names is not None:
            found[axis] = (axis, np.array(names))
    if model is not None:
        found["model"] = model
    if model is not None and "token" in sizes and store.kind != "alignment":
        kept = store.read(TOKEN.at(model)) if store.has(TOKEN.at(model)) else None
        dims = ("token",) if kept is None else ("image", "token")
        _, row, column = place_tokens(store.axes[model], kept)
        found |= {"row": (dims, row), "column": (dims, column)}
    if rois and sizes.get("voxel") == len(rois):
        found["roi"] = ("voxel", np.array(rois))
    return found
