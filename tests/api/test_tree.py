"""`open_store`: coordinates are those of the nodes, values are the store's, read late and checked."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from aligncut_cli import open_store
from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.store.read import Store
from tests.conftest import TINY, done
from tests.stages.test_segment import write_mask

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("store", ["features", "eigs", "tsne"])
def test_every_array_has_the_values_that_zarr_reads(store: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(store)
    tree = open_store(path)
    found = 0
    for name, node in zarr.open_group(path, mode="r").members(max_depth=None):
        if isinstance(node, zarr.Array):
            group, _, own = name.rpartition("/")
            values = tree[f"/{group}"][own]
            assert values.dims == node.metadata.dimension_names
            np.testing.assert_array_equal(values.values, np.asarray(node[...]).astype(values.dtype))
            found += 1
    assert found > 4
    assert tree.attrs["aligncut"]["kind"] == store


def test_layers_images_rows_and_columns_select_the_node_that_they_name(tsne: Path) -> None:
    tree = open_store(tsne)
    values = zarr.open_group(tsne, mode="r")["pair/coords"][...]
    model = tree["pair"]
    assert str(model["model"].values) == "pair"
    for layer, image, row, column in [(0, 0, 0, 0), (2, 7, 3, 1), (1, 11, 2, 3)]:
        chosen = model["coords"].sel(layer=layer, image=f"photo-{image:03d}")
        place = ((chosen["row"] == row) & (chosen["column"] == column)).values
        np.testing.assert_array_equal(chosen.values[place][0], values[layer, image, 1 + 4 * row + column])
    assert model["row"].values[0] == model["column"].values[0] == -1


def test_layers_are_called_by_their_numbers(photos: Path, tmp_path: Path) -> None:
    flags = [*TINY[:-1], "2,5", "--workers", 0, "--sample-tokens", 5]
    store = done("extract", photos, "-o", tmp_path / "f.zarr", *flags)
    tree = open_store(store)["tiny"]
    np.testing.assert_array_equal(tree["layer"].values, [2, 5])
    kept = zarr.open_group(store, mode="r")["tiny/token"][...]
    assert tree["row"].dims == ("image", "token")
    row, column = tree["row"].values, tree["column"].values
    np.testing.assert_array_equal(np.where(row < 0, 0, 1 + 4 * row + column), kept)


def test_scores_name_models_and_layers_and_voxels_their_rois(features: Path, eigs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(12):
        write_mask(tmp_path / "masks" / f"photo-{index:03d}.png", rng.integers(0, 2, (48, 48 + index)))
    scored = open_store(done("segment", eigs, "-o", tmp_path / "s.zarr", "--masks", tmp_path / "masks"))
    assert scored["scores"]["model"].values.tolist() == ["tiny", "pair"]
    assert scored["scores"]["iou"].sel(model="pair", **{"class": "background"}).shape == (3,)
    np.save(tmp_path / "r.npy", rng.standard_normal((12, 6)).astype(np.float32))
    (tmp_path / "rois.json").write_text('{"V1": [0, 1], "FFA": [1, 4]}')
    fit = ["--responses", tmp_path / "r.npy", "--rois", tmp_path / "rois.json", "--universal-dim", 8, "--epochs", 1]
    shares = ["--nodes", 30, "--validation-share", 0.2, "--test-share", 0.2]
    tree = open_store(done("align", features, "-o", tmp_path / "a.zarr", *fit, *shares))
    assert tree["scores"]["roi"].values.tolist() == ["V1", "FFA+V1", "", "", "FFA", ""]
    assert tree["tiny"]["roi_r2"].dims == ("layer", "roi", "bound")
    assert set(tree["tiny"]["roi"].values.tolist()) == {"all", "V1", "FFA"}
    assert tree["tiny"]["bound"].values.tolist() == ["value", "low", "high"]


def test_only_what_is_asked_for_is_read(features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, object]] = []
    real = Store.read

    def read(self: Store, name: str, selection: object = ...) -> object:
        asked.append((name, selection))
        return real(self, name, selection)

    monkeypatch.setattr(Store, "read", read)
    tree = open_store(features)
    assert not [name for name, _ in asked if name.endswith(("tokens", "pooled"))]
    some = tree["tiny"]["tokens"].sel(layer=1)[2:5, ::-3].values
    assert [name for name, _ in asked if name.endswith("tokens")] == ["tiny/tokens"]
    whole = zarr.open_group(features, mode="r")["tiny/tokens"][...]
    np.testing.assert_array_equal(some, whole[1, 2:5, ::-3])
    assert str(asked[-1][1]).startswith("(1, slice(2, 5")


def test_a_damaged_chunk_is_named_when_it_is_read(photos: Path, tmp_path: Path) -> None:
    store = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY, "--workers", 0)
    chunks = sorted(file for file in (store / "tiny" / "tokens" / "c").rglob("*") if file.is_file())
    chunks[-1].write_bytes(chunks[0].read_bytes())  # whole, but another one
    tree = open_store(store)
    assert tree["tiny"]["tokens"].sel(layer=0).values.shape == (12, 17, 192)
    with pytest.raises(BadInput, match=r"tokens.*damaged chunk"):
        _ = tree["tiny"]["tokens"].sel(layer=2).values


def test_what_is_no_store_and_a_missing_xarray_are_told(
    features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="no such store"):
        open_store(tmp_path / "nothing.zarr")
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(UsageError, match=r"aligncut\[notebook\]"):
        open_store(features)


def test_the_tree_says_nothing_of_its_own(features: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="zarr")
        assert "layer" in repr(open_store(features))
