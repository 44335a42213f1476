"""`tsne`, `render` and `inspect` as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from aligncut_cli.stages.comparability import describe_colours
from aligncut_cli.stages.tsne.place import NearestPlaces
from aligncut_cli.store.kinds.eigs import Eigs
from aligncut_cli.store.kinds.tsne import Tsne
from aligncut_cli.store.read import open_store
from aligncut_cli.viz.colours import colour_range, to_rgb
from tests.conftest import TINY, aligncut, done, make_photos
from tests.stages.made_stores import make_node_store, unseal
from tests.stages.test_eigs import all_rows


def test_every_node_stands_where_its_nearest_sampled_node_stands(eigs: Path, tsne: Path) -> None:
    store = open_store(tsne)
    nodes, eigvecs, coords = (store.read(f"sample/{name}")[0] for name in ("node", "eigvecs", "coords"))
    rows, placed = all_rows(eigs, "eigvecs"), all_rows(tsne, "coords")
    np.testing.assert_array_equal(eigvecs, rows[nodes].astype(np.float32))
    for row, place in zip(rows[::37], placed[::37], strict=True):
        distances = [sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) for other in eigvecs]
        near = np.flatnonzero(np.array(distances) <= min(distances) * (1 + 1e-3) + 1e-14)
        assert any(np.array_equal(place, coords[i]) for i in near)


def test_places_keep_the_shape_of_what_is_placed_and_fitted_nodes_stand_where_they_were_put() -> None:
    rng = np.random.default_rng(0)
    eigvecs, coords = (rng.standard_normal((60, width)).astype(np.float32) for width in (4, 2))
    places = NearestPlaces(eigvecs, coords, n_queries=60, seed=0, device=torch.device("cpu"))
    np.testing.assert_array_equal(places.place(eigvecs), coords)
    np.testing.assert_array_equal(places.place(eigvecs.reshape(3, 20, 4)), coords.reshape(3, 20, 2))
    near = places.place(eigvecs[7] + np.float32(1e-4))
    np.testing.assert_array_equal(near, coords[7])


def test_colours_are_one_clipped_map_of_the_coordinates(tsne: Path) -> None:
    store = open_store(tsne)
    ends = store.record["colour_range"]
    sample = store.read("sample/coords").reshape(-1, 3)
    np.testing.assert_allclose(ends["low"], np.quantile(sample, 0.01, axis=0), rtol=1e-5)
    coords, rgb = all_rows(tsne, "coords"), all_rows(tsne, "rgb")
    scaled = (coords - ends["low"]) / (np.array(ends["high"]) - ends["low"])
    assert np.abs(rgb - np.clip(scaled, 0, 1) * 255).max() <= 0.51


def test_a_flat_axis_is_grey_and_the_far_ends_are_clipped() -> None:
    coords = np.array([[0, 1, 5], [1, 1, 6], [2, 1, 7]], dtype=np.float32)
    low, high = colour_range(coords, clip=0.0)
    np.testing.assert_array_equal(to_rgb(coords, low, high)[:, 1], 128)
    np.testing.assert_array_equal(to_rgb(coords * 10, low, high)[2], [255, 128, 255])


def test_two_dimensions_have_no_colours_and_cannot_be_rendered(tmp_path: Path, eigs: Path) -> None:
    output = done("tsne", eigs, "-o", tmp_path / "t.zarr", "--dims", 2, "--n-sample", 100, "--iterations", 50)
    assert open_store(output).names("tiny") == ["coords"]
    result = aligncut("render", output, "-o", tmp_path / "pictures")
    assert result.code == 3
    assert "--dims 3" in result.err


def test_extended_eigenvectors_are_placed_and_coloured_alike(tmp_path: Path, photos: Path) -> None:
    features = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY, "--batch-size", 1)
    flat = ["--search", "flat", "--neighbors", 5]
    base = done("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 4, "--n-sample", 150, *flat)
    map3 = done("tsne", base, "-o", tmp_path / "t.zarr", "--n-sample", 100, "--iterations", 50)
    some = done("extract", make_photos(tmp_path / "some", 5), "-o", tmp_path / "g.zarr", *TINY, "--batch-size", 1)
    extended = done("eigs", some, "-o", tmp_path / "x.zarr", "--basis", base, *flat)
    colours = done("tsne", extended, "-o", tmp_path / "y.zarr", "--basis", map3)
    ours, theirs = open_store(colours).read("tiny/rgb"), open_store(map3).read("tiny/rgb")[:, :5]
    assert (ours == theirs).mean() > 0.99
    other = done("eigs", features, "-o", tmp_path / "o.zarr", "--n-eig", 4, "--n-sample", 140, *flat)
    result = aligncut("tsne", other, "-o", tmp_path / "z.zarr", "--basis", map3)
    assert result.code == 3
    assert "other eigenvectors" in result.err


def test_a_montage_shows_the_photo_and_every_token_in_its_colour(tmp_path: Path, tsne: Path) -> None:
    folder = done("render", tsne, "-o", tmp_path / "pictures", "--tile", 64)
    assert len(list(folder.glob("photo-*.png"))) == 12
    assert (folder / "overview.png").exists()
    picture = np.asarray(Image.open(folder / "photo-003.png"))
    rgb = open_store(tsne).read("pair/rgb")[1, 3, 1:].reshape(4, 4, 3)
    shown = {tuple(colour) for colour in picture.reshape(-1, 3)}
    assert {tuple(colour) for colour in rgb.reshape(-1, 3)} <= shown


def test_photos_that_have_moved_are_found_or_said_to_be_missing(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 2)
    features = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY)
    eigs = done("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 3)
    map3 = done("tsne", eigs, "-o", tmp_path / "t.zarr", "--iterations", 20)
    photos.rename(tmp_path / "moved")
    lost = aligncut("render", map3, "-o", tmp_path / "a")
    assert lost.code == 0
    assert "2 photos were not found" in lost.err
    found = aligncut("render", map3, "-o", tmp_path / "b", "--photos", tmp_path / "moved")
    assert "not found" not in found.err


def test_image_ids_of_a_hostile_store_stay_in_the_folder(tmp_path: Path, tsne: Path) -> None:
    copy = tmp_path / "t.zarr"
    shutil.copytree(tsne, copy)
    ids = zarr.open_group(unseal(copy), mode="r+")["images/id"]
    names = ids[:]
    names[0] = "../../escaped"
    ids[:] = names
    result = aligncut("render", copy, "-o", tmp_path / "deep" / "pictures")
    assert result.code == 3
    assert "not a name inside a folder" in result.err
    assert not list(tmp_path.rglob("escaped*"))


def test_inspect_tells_what_a_finished_store_holds(features: Path, eigs: Path) -> None:
    found = json.loads(aligncut("inspect", eigs, "--json").out)
    assert found["complete"] is True
    assert found["kind"] == "eigs"
    shapes = {array["name"]: array["shape"] for array in found["arrays"]}
    assert shapes["tiny/eigvecs"] == [3, 12, 17, 5]
    text = aligncut("inspect", eigs).out
    assert "n_sample" in text
    assert str(features) in text
    said = "\n".join([*found["said"], *(f"warning: {line}" for line in found["warned"])]).splitlines()
    assert max(len(line) for line in text.splitlines() if line not in said) < 200


def test_inspect_tells_how_far_an_unfinished_store_is(tmp_path: Path, features: Path, monkeypatch) -> None:
    from aligncut_cli.stages.eigs import phases as eigs_phases

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(eigs_phases.EigsStage, "_carry", stop)
    output = tmp_path / "e.zarr"
    assert aligncut("eigs", features, "-o", output, "--n-eig", 3).code == 130
    for path in (output, tmp_path / "e.zarr.wip"):
        found = json.loads(aligncut("inspect", path, "--json").out)
        assert found["complete"] is False
        assert found["done"] == {"create": 1, "sample": 1, "solve": 1}
    used = aligncut("tsne", output, "-o", tmp_path / "t.zarr")
    assert used.code == 3
    assert "not finished" in used.err


def test_inspected_parameters_configure_a_run_that_is_up_to_date(tmp_path: Path, features: Path, eigs: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(aligncut("inspect", eigs, "--params").out)
    result = aligncut("eigs", features, "-o", eigs, "--config", config)
    assert "up to date" in result.err


SPACES: list[tuple[dict[str, object], str]] = [
    ({"group": "all", "comparable": True}, "Like colours mean like places in one space, across photos, layers and"),
    ({"group": "all", "comparable": False}, "These features are not aligned: like colours mean like places within one"),
    ({"group": "all"}, "It is not recorded that the models share a space: like colours mean like places within one"),
    ({"group": "model", "comparable": True}, "Every model has a map of its own: like colours mean like places within"),
    ({"group": "layer", "comparable": True}, "Every layer has a map of its own: like colours mean like places within"),
]


@pytest.mark.parametrize(("record", "expected"), SPACES)
def test_colours_are_said_to_compare_only_where_they_do(
    tmp_path: Path, record: dict[str, object], expected: str
) -> None:
    values = {name: np.zeros((2, 3, 5, 3)) for name in ("clip", "mae")}
    both = Tsne(open_store(make_node_store(tmp_path / "t.zarr", "tsne", values, grid=(2, 2), **record)))
    assert describe_colours(both).startswith(expected)
    alone = make_node_store(tmp_path / "a.zarr", "tsne", {"clip": values["clip"]}, grid=(2, 2), **record)
    said = describe_colours(Tsne(open_store(alone)))
    assert "models" not in said
    assert ("across its photos and layers" in said) == (record["group"] != "layer")


def test_eigs_stores_without_that_word_are_told_by_their_inputs(tmp_path: Path) -> None:
    values = {name: np.zeros((2, 3, 5, 3)) for name in ("clip", "mae")}
    for name, kinds, expected in (
        ("aligned", ("features", "alignment"), "in one space, across photos, layers and models"),
        ("raw", ("features",), "These features are not aligned"),
    ):
        inputs = [{"kind": kind, "path": "gone", "digest": "0"} for kind in kinds]
        store = make_node_store(tmp_path / f"{name}.zarr", "eigs", values, grid=(2, 2), inputs=inputs)
        assert expected in describe_colours(Eigs(open_store(store)))


def test_montages_say_what_their_colours_mean(tmp_path: Path, features: Path) -> None:
    pictures = {}
    for group in ("all", "model"):
        eigs = done(
            "eigs", features, "-o", tmp_path / f"{group}.zarr", "--n-eig", 3, "--n-sample", 100, "--group", group
        )
        map3 = done("tsne", eigs, "-o", tmp_path / f"{group}-t.zarr", "--iterations", 5)
        drawn = aligncut("render", map3, "-o", tmp_path / group, "--images", 1)
        said = describe_colours(Tsne(open_store(map3)))
        assert "within one model" in said
        assert said in drawn.err
        assert open_store(tmp_path / group).record["summary"]["colours"] == said
        pictures[group] = np.asarray(Image.open(tmp_path / group / "photo-000.png").convert("L"))
    assert pictures["all"].shape[1] == pictures["model"].shape[1]
    # the sentence is drawn: under the title there is ink of another text
    assert (pictures["all"][54:90] < 128).sum() > 100
    assert not np.array_equal(pictures["all"][54:90], pictures["model"][54:90])
