"""xarray opens every kind of store, whole and group by group, and reads what zarr reads under named dimensions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from aligncut_cli.store.kinds.every import KINDS
from tests.conftest import TINY, done
from tests.stages.test_segment import write_mask

SLOTS = ["--from", "tiny:0", "--to", "tiny:1", "--along", "pair", "--token", "photo-001:1,2"]
KIND_OF = {  # what is made below, and of which kind it is
    "features": "features",
    "features of sampled tokens": "features",
    "alignment": "alignment",
    "consensus of several fits": "alignment",
    "mapped features": "features",
    "eigs": "eigs",
    "orthogonal eigs of centred slots": "eigs",
    "tsne": "tsne",
    "segments": "segments",
    "segments of several runs": "segments",
    "segments by clusters": "segments",
    "transitions": "transitions",
    "decoding by both methods": "decoding",
}


@pytest.fixture(scope="module")
def stores(
    tmp_path_factory: pytest.TempPathFactory, photos: Path, features: Path, eigs: Path, tsne: Path
) -> dict[str, Path]:
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
    np.save(folder / "ceiling.npy", np.linspace(0.1, 0.9, 9).astype(np.float32))
    fit += ["--noise-ceiling", folder / "ceiling.npy"]
    fit += ["--validation-share", 0.2, "--test-share", 0.2]
    alignment = done("align", features, "-o", folder / "a.zarr", *fit)
    return {
        "features": features,
        "features of sampled tokens": done(
            "extract", photos, "-o", folder / "fs.zarr", *TINY, "--workers", 0, "--sample-tokens", 5
        ),
        "alignment": alignment,
        "consensus of several fits": done(
            "align", features, "-o", folder / "c.zarr", *fit, "--target", "both", "--seeds", 2
        ),
        "mapped features": done("align", features, "--apply", alignment, "-o", folder / "u.zarr"),
        "eigs": eigs,
        "orthogonal eigs of centred slots": done(
            *("eigs", features, "-o", folder / "o.zarr", "--n-eig", 3, "--n-sample", 50),
            *("--orthogonalize", "--centre", "slot"),
        ),
        "tsne": tsne,
        "segments": done("segment", eigs, "-o", folder / "s.zarr", *masks),
        "segments of several runs": done("segment", f"a={eigs}", f"b={eigs}", "-o", folder / "r.zarr", *masks),
        "segments by clusters": done(
            "segment", eigs, "-o", folder / "k.zarr", "--clusters", 5, "--clusters", 2, *masks
        ),
        "transitions": done("transitions", tsne, "-o", folder / "x.zarr", *SLOTS, *masks, "--permutations", 9),
        "decoding by both methods": decode(folder, photos, features),
    }


def decode(folder: Path, photos: Path, features: Path) -> Path:
    """Decode by both methods from responses with repeats, with categories, subsets and the control."""
    names = sorted(photo.stem for photo in photos.iterdir() if photo.is_file())
    (folder / "ids.csv").write_text("image\n" + "\n".join([*names, *names]) + "\n")
    (folder / "categories.csv").write_text("image,category\n" + "".join(f"{n},{k % 2}\n" for k, n in enumerate(names)))
    np.save(folder / "trials.npy", np.random.default_rng(1).standard_normal((2 * len(names), 9)).astype(np.float32))
    return done(
        *("decode", features, "-o", folder / "d.zarr", "--method", "both", "--folds", 2, "--neurons", "3,5"),
        *("--responses", folder / "trials.npy", "--image-ids", folder / "ids.csv", "--control", "shuffle"),
        *("--categories", folder / "categories.csv", "--candidates", "2,all", "--subsets", 4, "--permutations", 9),
        *("--draws", 20, "--epochs", 1, "--image-size", 16, "--channels", 2, "--batch-images", 4),
    )


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


@pytest.mark.parametrize("kind", KIND_OF)
def test_every_array_is_as_its_kind_declares_it(stores: dict[str, Path], kind: str) -> None:
    declared = KINDS[KIND_OF[kind]].arrays
    for name, array in arrays_of(stores[kind]):
        matching = [one for one in declared if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(one.name)), name)]
        assert matching, f"{name} is not declared"
        one = min(matching, key=lambda one: len(one.fields))
        assert array.metadata.dimension_names == one.axes, name
        dtype = "str" if array.dtype.kind in "OT" else str(array.dtype)
        assert dtype == one.dtype, name


def test_every_declared_array_is_in_some_store(stores: dict[str, Path]) -> None:
    written: dict[str, set[str]] = {}
    for kind, path in stores.items():
        written.setdefault(KIND_OF[kind], set()).update(name for name, _ in arrays_of(path))
    for kind, names in written.items():
        for array in KINDS[kind].arrays:
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(array.name))
            assert any(re.fullmatch(pattern, name) for name in names), f"{kind}: {array.name}"


@pytest.mark.parametrize("kind", KIND_OF)
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
