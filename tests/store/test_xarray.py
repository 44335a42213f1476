"""xarray opens every kind of store, whole and group by group, and reads what zarr reads under named dimensions."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from tests.conftest import done
from tests.stages.test_segment import write_mask

SLOTS = ["--from", "tiny:0", "--to", "tiny:1", "--along", "pair", "--token", "photo-001:1,2"]
DIMENSIONS = {
    "features": {"tiny/tokens": ("layer", "image", "token", "channel"), "tiny/pooled": ("layer", "image", "channel")},
    "alignment": {
        "tiny/weight": ("layer", "channel", "universal"),
        "readout/weight": ("universal", "voxel"),
        "readout/bias": ("voxel",),
        "roi/V1": ("voxel",),
        "scores/r2": ("voxel",),
    },
    "mapped features": {"pair/tokens": ("layer", "image", "token", "channel")},
    "eigs": {
        "eigenvalues": ("group", "eig"),
        "sample/node": ("group", "sample"),
        "sample/eigvecs": ("group", "sample", "eig"),
        "tiny/eigvecs": ("layer", "image", "token", "eig"),
    },
    "tsne": {
        "sample/coords": ("group", "sample", "dim"),
        "tiny/coords": ("layer", "image", "token", "dim"),
        "tiny/rgb": ("layer", "image", "token", "rgb"),
    },
    "segments": {"tiny/labels": ("layer", "image", "token"), "scores/miou": ("model", "layer")},
    "segments of several runs": {"runs/miou": ("run", "model", "layer")},
    "segments by clusters": {"tiny/labels": ("layer", "image", "token")},
    "transitions": {
        "concepts/from": ("concept", "dim"),
        "probability/foreground": ("from", "to"),
        "counts/all": ("from", "to"),
    },
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, features: Path, eigs: Path, tsne: Path) -> dict[str, Path]:
    """A store of every kind that has arrays, made by its command."""
    folder = tmp_path_factory.mktemp("stores")
    rng = np.random.default_rng(0)
    np.save(folder / "responses.npy", rng.standard_normal((12, 9)).astype(np.float32))
    (folder / "rois.json").write_text('{"V1": [0, 1, 2]}')
    for index in range(12):
        write_mask(folder / "masks" / f"photo-{index:03d}.png", rng.integers(0, 2, (48, 48 + index)))
    masks = ["--masks", folder / "masks"]
    fit = ["--responses", folder / "responses.npy", "--rois", folder / "rois.json", "--universal-dim", 8]
    fit += ["--epochs", 1, "--nodes", 30]
    alignment = done("align", features, "-o", folder / "a.zarr", *fit, "--validation-share", 0.2, "--test-share", 0.2)
    return {
        "features": features,
        "alignment": alignment,
        "mapped features": done("align", features, "--apply", alignment, "-o", folder / "u.zarr"),
        "eigs": eigs,
        "tsne": tsne,
        "segments": done("segment", eigs, "-o", folder / "s.zarr", *masks),
        "segments of several runs": done("segment", f"a={eigs}", f"b={eigs}", "-o", folder / "r.zarr", *masks),
        "segments by clusters": done("segment", eigs, "-o", folder / "k.zarr", "--clusters", 5, "--clusters", 2),
        "transitions": done("transitions", tsne, "-o", folder / "x.zarr", *SLOTS, *masks, "--permutations", 9),
    }


def arrays_of(path: Path) -> Iterator[tuple[str, zarr.Array]]:
    for name, node in zarr.open_group(path, mode="r", use_consolidated=False).members(max_depth=None):
        if isinstance(node, zarr.Array):
            yield name, node


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Variable-length text and consolidated metadata are not in the v3 specification yet, and every reader says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("kind", DIMENSIONS)
def test_every_array_names_its_dimensions(stores: dict[str, Path], kind: str) -> None:
    names = {name: array.metadata.dimension_names for name, array in arrays_of(stores[kind])}
    for name, dimensions in names.items():
        assert dimensions is not None, name
        assert all(dimensions), name
    assert DIMENSIONS[kind].items() <= names.items()


@pytest.mark.parametrize("kind", DIMENSIONS)
def test_xarray_opens_the_whole_store_and_each_group_of_it(stores: dict[str, Path], kind: str) -> None:
    path = stores[kind]
    with xarray.open_datatree(path, engine="zarr") as tree:
        assert tree.attrs["aligncut"]["digest"]
        for name, array in arrays_of(path):
            group, _, own = name.rpartition("/")
            found = tree[f"/{group}"].dataset[own]
            assert found.dims == array.metadata.dimension_names
            np.testing.assert_array_equal(found.values, array[...])
            with xarray.open_zarr(path, group=group or None) as alone:
                assert alone[own].shape == array.shape
