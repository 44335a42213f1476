"""`report` as a command: which stores belong together, what the pieces hold, and that nothing leaves the folder."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from PIL import Image

from aligncut_cli.stages.blocks import read_square, table_block
from aligncut_cli.store.read import open_store
from aligncut_cli.viz import page
from tests.conftest import TINY, aligncut, done, make_photos
from tests.stages.made_stores import make_node_store, unseal


def read_piece(report: Path, name: str) -> Any:
    """Read what a script hands to the page."""
    text = (report / "data" / f"{name}.js").read_text(encoding="ascii")
    found = re.fullmatch(r'aligncut\.receive\("([^"]+)",(.*)\);\n', text, re.DOTALL)
    assert found
    assert found[1] == name
    return json.loads(found[2])


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory, eigs: Path) -> Path:
    output = tmp_path_factory.mktemp("flat") / "t2.zarr"
    return done("tsne", eigs, "-o", output, "--dims", 2, "--n-sample", 150, "--iterations", 30)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, features: Path, eigs: Path, tsne: Path, flat: Path) -> Path:
    return done("report", features, tsne, flat, eigs, "-o", tmp_path_factory.mktemp("report") / "page")


def test_one_space_is_made_of_the_stores_that_share_eigenvectors(report: Path) -> None:
    main = read_piece(report, "main")
    (view,) = main["views"]
    assert view["nEig"] == 5
    assert view["colours"] is True
    assert view["plane"] == 2
    assert [model["name"] for model in view["models"]] == ["tiny", "pair"]
    assert view["models"][0]["grid"] == [4, 4]
    assert [store["stage"] for store in main["stores"]] == ["extract", "tsne", "tsne", "eigs"]
    assert ["n_eig", "5"] in main["stores"][3]["params"]
    assert len(main["photos"]) == 12
    assert all(found for *_, found in main["photos"])


def test_eight_bits_keep_cosines_to_about_a_hundredth(report: Path, eigs: Path) -> None:
    exact = open_store(eigs).read("pair/eigvecs")[1, :, 1:].reshape(-1, 5).astype(np.float64)
    packed = np.frombuffer(base64.b64decode(read_piece(report, "e-0-1-1-0")), dtype=np.int8).reshape(-1, 5)
    assert packed.shape == exact.shape
    assert (np.abs(packed).max(axis=1) == 127).all()
    ours = packed / np.linalg.norm(packed.astype(np.float64), axis=1, keepdims=True)
    theirs = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.abs(ours @ ours.T - theirs @ theirs.T).max() < 0.015


def test_a_row_of_zeros_stays_one() -> None:
    np.testing.assert_array_equal(page.quantize_rows(np.array([[0.0, 0.0], [0.5, -1.0]])), [[0, 0], [64, -127]])


def test_places_on_the_map_are_those_of_the_store(report: Path, flat: Path) -> None:
    coords = open_store(flat).read("tiny/coords")[:, :, 1:].astype(np.float64)
    every = open_store(flat).read("sample/coords").reshape(-1, 2).astype(np.float64)
    packed = np.frombuffer(base64.b64decode(read_piece(report, "m-0-0-0")), dtype="<u2").reshape(coords.shape)
    extent = (every.max(0) - every.min(0)).max()
    low = (every.max(0) + every.min(0)) / 2 - extent / 2
    np.testing.assert_allclose(packed / 65535 * extent + low, coords, atol=extent / 60000)


def test_points_of_the_map_are_nodes_with_their_place_and_colour(report: Path, tsne: Path, flat: Path) -> None:
    points = read_piece(report, "points-0")
    kinds = {"place": "<u2", "colour": "u1", "slot": "<u2", "image": "<u4", "patch": "<u2"}
    arrays = {name: np.frombuffer(base64.b64decode(points[name]), dtype=kind) for name, kind in kinds.items()}
    assert len(arrays["slot"]) == 2 * 3 * 12 * 16  # fewer than --map-points, so all
    assert len(set(zip(arrays["slot"], arrays["image"], arrays["patch"], strict=True))) == len(arrays["slot"])
    rgb, main = open_store(tsne), np.random.default_rng(0)
    for i in main.integers(0, len(arrays["slot"]), 20):
        model, layer = ("tiny", "pair")[arrays["slot"][i] // 3], arrays["slot"][i] % 3
        expected = rgb.read(f"{model}/rgb")[layer, arrays["image"][i], arrays["patch"][i] + 1]
        np.testing.assert_array_equal(arrays["colour"].reshape(-1, 3)[i], expected)
        packed = base64.b64decode(read_piece(report, f"m-0-{arrays['slot'][i] // 3}-0"))
        places = np.frombuffer(packed, dtype="<u2").reshape(3, 12, 16, 2)
        np.testing.assert_array_equal(
            arrays["place"].reshape(-1, 2)[i], places[layer, arrays["image"][i], arrays["patch"][i]]
        )


def test_a_sheet_has_one_pixel_per_patch_in_its_colour(report: Path, tsne: Path) -> None:
    view = read_piece(report, "main")["views"][0]
    rgb = open_store(tsne).read("tiny/rgb")[2, :, 1:].reshape(12, 4, 4, 3)
    with Image.open(report / "data" / "c-0-0-2-0.png") as picture:
        sheet = np.asarray(picture.convert("RGB"))
    for image in range(12):
        row, column = divmod(image, view["columns"])
        np.testing.assert_array_equal(sheet[4 * row : 4 * row + 4, 4 * column : 4 * column + 4], rgb[image])


def test_photos_and_thumbnails_are_numbered_and_sized_as_asked(tmp_path: Path, eigs: Path) -> None:
    sizes = ["--photo-size", 100, "--thumb-size", 20, "--images", 5]
    folder = done("report", eigs, "-o", tmp_path / "page", *sizes)
    assert sorted(file.name for file in (folder / "photos").iterdir()) == [f"{i}.jpg" for i in range(5)]
    with Image.open(folder / "photos" / "4.jpg") as picture:
        assert picture.size == (100, round(100 * 48 / 52))
    with Image.open(folder / "thumbs" / "0.jpg") as picture:
        assert picture.size == (200, 20)
    main = read_piece(folder, "main")
    assert len(main["views"][0]["images"]) == 5
    assert len(base64.b64decode(read_piece(folder, "e-0-0-0-0"))) == 5 * 16 * 5


def test_many_blocks_make_many_pieces(tmp_path: Path, tsne: Path, eigs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aligncut_cli.stages.report.views import View

    whole = done("report", eigs, "-o", tmp_path / "whole")
    monkeypatch.setattr(View, "images_per_block", 5)
    cut = done("report", eigs, "-o", tmp_path / "cut")
    parts = [base64.b64decode(read_piece(cut, f"e-0-1-2-{block}")) for block in range(3)]
    assert [len(part) // (16 * 5) for part in parts] == [5, 5, 2]
    assert b"".join(parts) == base64.b64decode(read_piece(whole, "e-0-1-2-0"))


def test_what_is_not_given_is_not_shown(tmp_path: Path, features: Path, eigs: Path, tsne: Path) -> None:
    only = read_piece(done("report", tsne, "-o", tmp_path / "a"), "main")
    assert (only["views"][0]["nEig"], only["views"][0]["plane"]) == (0, 3)
    only = read_piece(done("report", eigs, "-o", tmp_path / "b"), "main")
    assert (only["views"][0]["nEig"], only["views"][0]["plane"]) == (5, None)
    only = read_piece(done("report", features, "-o", tmp_path / "c"), "main")
    assert only["views"] == []
    assert only["photos"] == []


def test_sampled_tokens_are_no_picture_and_the_page_says_so(tmp_path: Path, photos: Path) -> None:
    features = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY, "--sample-tokens", 6)
    eigs = done("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 3)
    main = read_piece(done("report", eigs, "-o", tmp_path / "page"), "main")
    assert main["views"] == []
    assert "sampled tokens only" in main["notes"][0]


def test_text_of_stores_can_neither_end_a_script_nor_name_a_file(tmp_path: Path, eigs: Path) -> None:
    copy = tmp_path / "</script><b>.zarr"
    copy.parent.mkdir(parents=True)
    shutil.copytree(eigs, copy)
    ids = zarr.open_group(unseal(copy), mode="r+")["images/id"]
    names = ids[:]
    names[0], names[1] = "../../escaped", "</script><script>alert(1)</script>\u2028"
    ids[:] = names
    folder = done("report", copy, "-o", tmp_path / "deep" / "page", "--title", "</title><script>")
    assert not list(tmp_path.rglob("escaped*"))
    text = (folder / "data" / "main.js").read_bytes()
    assert text.isascii()
    assert b"</" not in text
    assert read_piece(folder, "main")["photos"][1][0] == names[1]
    assert "<script>alert" not in (folder / "index.html").read_text()
    allowed = re.compile(
        r"(index\.html|aligncut\.json|[a-z]+\.(js|css)|(photos|thumbs)/\d+\.jpg|data/[a-z0-9-]+\.(js|png))"
    )
    for file in folder.rglob("*"):
        if file.is_file():
            assert allowed.fullmatch(file.relative_to(folder).as_posix()), file


def test_a_control_is_flagged(tmp_path: Path, tsne: Path) -> None:
    copy = tmp_path / "t.zarr"
    shutil.copytree(tsne, copy)
    record = json.loads((copy / "zarr.json").read_text())
    record["attributes"]["aligncut"]["controls"] = ["shuffle"]
    (copy / "zarr.json").write_text(json.dumps(record))
    folder = done("report", copy, "-o", tmp_path / "page")
    main = read_piece(folder, "main")
    assert main["views"][0]["controls"] == ["shuffle"]
    assert main["stores"][0]["controls"] == ["shuffle"]
    assert open_store(folder).record["controls"] == ["shuffle"]


def test_missing_photos_are_counted_and_found_where_one_says(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 3)
    features = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY)
    eigs = done("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 3)
    photos.rename(tmp_path / "moved")
    lost = aligncut("report", eigs, "-o", tmp_path / "a")
    assert lost.code == 0
    assert "3 photos were not found" in lost.err
    found = aligncut("report", eigs, "-o", tmp_path / "b", "--photos", tmp_path / "moved")
    assert "not found" not in found.err


def test_a_photo_is_never_looked_up_outside_the_folder_of_photos(tmp_path: Path, eigs: Path) -> None:
    copy, photos = tmp_path / "e.zarr", tmp_path / "deep" / "photos"
    shutil.copytree(eigs, copy)
    make_photos(photos, 1)
    shutil.copyfile(photos / "photo-000.png", tmp_path / "outside.png")
    images = zarr.open_group(unseal(copy), mode="r+")["images"]
    ids, paths = images["id"][:], images["path"][:]
    ids[0], ids[1], paths[:] = "../../outside", str(tmp_path / "outside"), "/gone/nowhere.png"
    ids[2] = "photo-000"
    images["id"][:], images["path"][:] = ids, paths
    main = read_piece(done("report", copy, "-o", tmp_path / "page", "--photos", photos, "--images", 3), "main")
    assert [found for *_, found in main["photos"]] == [False, False, True]


def test_spaces_that_share_photos_list_each_once(tmp_path: Path, photos: Path, eigs: Path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    shutil.copyfile(next(iter(sorted(photos.iterdir()))), some / "another.png")
    features = done("extract", some, *sorted(photos.iterdir())[4:6], "-o", tmp_path / "f.zarr", *TINY)
    other = done("eigs", features, "-o", tmp_path / "e.zarr", "--n-eig", 3)
    main = read_piece(done("report", eigs, other, "-o", tmp_path / "page"), "main")
    names = [[main["photos"][i][0] for i in view["images"]] for view in main["views"]]
    assert names[0] == [str(name) for name in open_store(eigs).read("images/id")]
    assert names[1] == [str(name) for name in open_store(other).read("images/id")]
    assert len(main["photos"]) == 13


def test_a_rerun_is_up_to_date_and_other_stores_are_refused(tmp_path: Path, eigs: Path, tsne: Path) -> None:
    folder = done("report", eigs, "-o", tmp_path / "page")
    again = aligncut("report", eigs, eigs, "-o", folder)
    assert "up to date" in again.err
    other = aligncut("report", eigs, tsne, "-o", folder)
    assert other.code == 4
    itself = aligncut("report", folder, "-o", tmp_path / "b")
    assert itself.code == 3
    assert "a report itself" in itself.err


def test_an_interrupted_report_goes_on_and_has_the_same_bytes(
    tmp_path: Path, eigs: Path, tsne: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aligncut_cli.stages.report import phases as report_phases

    whole = done("report", eigs, tsne, "-o", tmp_path / "whole")

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(report_phases, "write_page", stop)
        assert aligncut("report", eigs, tsne, "-o", tmp_path / "page").code == 130
    seen: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(report_phases, "write_piece", lambda folder, view, piece: seen.append(piece))
        resumed = done("report", eigs, tsne, "-o", tmp_path / "page")
    assert seen == []

    def content(folder: Path) -> dict[str, bytes]:
        files = [file for file in folder.rglob("*") if file.is_file() and file.name != "aligncut.json"]
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}

    assert content(resumed) == content(whole)


def test_csv_files_become_heat_maps_or_tables(tmp_path: Path) -> None:
    square = tmp_path / "square.csv"
    square.write_text("slot,a:0,a:1\na:0,1.0,0.5\na:1,0.5,\n")
    assert read_square(square) == (["a:0", "a:1"], [[1.0, 0.5], [0.5, None]])
    square.write_text("slot,a:0,a:1\na:0,1.0,0.5\nb:1,0.5,1\n")
    assert read_square(square) is None
    block = table_block("t", ["name", "value"], [["x", 1.0], ["y", None], ["z", float("nan")]])
    assert block["numeric"] == [False, True]
    assert block["rows"] == [["x", 1.0], ["y", None], ["z", None]]


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory, photos: Path, features: Path, eigs: Path, tsne: Path) -> Path:
    """A folder with a store of every kind that has a section, and the report of them all."""
    folder = tmp_path_factory.mktemp("findings")
    masks = folder / "masks"
    masks.mkdir()
    for photo in photos.iterdir():
        with Image.open(photo) as picture:
            mask = np.zeros((picture.height, picture.width), dtype=np.uint8)
        mask[: len(mask) // 2] = 1
        Image.fromarray(mask).save(masks / photo.name)
    rng = np.random.default_rng(0)
    np.save(folder / "responses.npy", rng.standard_normal((12, 9)))
    np.save(folder / "ceiling.npy", np.full(9, 0.5))
    (folder / "rois.json").write_text(json.dumps({"V4": [0, 1, 2], "EBA": [4, 5]}))
    given = ["--rois", folder / "rois.json", "--noise-ceiling", folder / "ceiling.npy", "--responses"]
    small = ["--epochs", 0, "--universal-dim", 8, "--test-share", 0.3, "--validation-share", 0.2]
    stores = [
        done("align", features, "-o", folder / "a.zarr", *given, folder / "responses.npy", *small),
        done("compare", features, "-o", folder / "compare"),
        done("segment", eigs, "-o", folder / "s.zarr", "--masks", masks),
        done("segment", eigs, "-o", folder / "k.zarr", "--clusters", 3),
        done("transitions", tsne, "-o", folder / "x.zarr", "--along", "tiny", "--masks", masks, "--concepts", 3),
        done("render", tsne, "-o", folder / "pictures", "--images", 2),
    ]
    act = ["--alignment", stores[0], "--masks", masks]
    stores.append(done("activations", features, "-o", folder / "activations", *act))
    return done("report", eigs, tsne, *stores, "-o", folder / "page")


def blocks_of(report: Path, section: str) -> list[Any]:
    (found,) = [s for s in read_piece(report, "main")["sections"] if s["id"] == section]
    return [block for part in found["parts"] for block in part["blocks"]]


def test_curves_show_the_scores_of_the_store_and_what_they_are_compared_to(findings: Path) -> None:
    store = open_store(findings.parent / "s.zarr")
    curve = blocks_of(findings, "segments")[0]
    assert [panel["title"] for panel in curve["panels"]] == ["tiny", "pair"]
    for model, panel in enumerate(curve["panels"]):
        series = {item["name"]: item["y"] for item in panel["series"]}
        np.testing.assert_allclose(series["mIoU"], store.read("scores/miou")[model], rtol=1e-4)
        np.testing.assert_allclose(series["chance"], store.read("scores/chance")[model], rtol=1e-4)
        np.testing.assert_allclose(series["masks of other images"], store.read("scores/shuffled")[model], rtol=1e-4)
        np.testing.assert_allclose(
            series["best a grid of patches can do"], store.read("scores/bound")[model], rtol=1e-4
        )


def test_bars_are_means_over_the_voxels_of_each_roi_beside_the_ceiling(findings: Path) -> None:
    r2 = open_store(findings.parent / "a.zarr").read("scores/r2").astype(np.float64)
    bars = blocks_of(findings, "brain")[0]
    assert bars["labels"] == ["V4", "EBA", "all"]
    np.testing.assert_allclose(bars["values"], [r2[:3].mean(), r2[4:6].mean(), r2.mean()], rtol=1e-4)
    assert [mark["name"] for mark in bars["marks"]] == ["noise ceiling", "ridge regression"]
    np.testing.assert_allclose(bars["marks"][0]["values"], 0.5)
    scores = open_store(findings.parent / "a.zarr").record["summary"]["scores"]
    for end, values in zip(("r2_low", "r2_high"), bars["intervals"], strict=True):
        np.testing.assert_allclose(values, [scores[name][end] for name in bars["labels"]], rtol=1e-4)


def test_activations_are_shown_by_slot_and_roi(findings: Path) -> None:
    with (findings.parent / "activations" / "activations.csv").open() as stream:
        rows = {(row["model"], row["layer"], row["roi"]): row for row in csv.DictReader(stream)}
    matrix, first, second = blocks_of(findings, "activations")[:3]
    for slot, values in zip(matrix["rows"], matrix["values"], strict=True):
        expected = [float(rows[(*slot.split(":"), roi)]["difference"]) for roi in matrix["columns"]]
        np.testing.assert_allclose(values, expected)
    assert first["folded"] is False
    assert second["folded"] is True
    panel = first["panels"][1]
    expected = [float(rows["tiny", str(layer), panel["title"]]["background"]) for layer in range(3)]
    np.testing.assert_allclose(panel["series"][1]["y"], expected)


def test_slots_are_compared_in_the_order_of_the_csv(findings: Path) -> None:
    matrix = blocks_of(findings, "slots")[0]
    labels, values = read_square(findings.parent / "compare" / "similarity-before.csv") or ([], [])
    assert matrix["panels"][0]["rows"] == labels == [f"{m}:{i}" for m in ("tiny", "pair") for i in range(3)]
    assert matrix["panels"][0]["values"] == values


def test_flows_and_heat_maps_hold_the_counts_and_probabilities(findings: Path) -> None:
    store = open_store(findings.parent / "x.zarr")
    blocks = blocks_of(findings, "transitions")
    flow = next(block for block in blocks if block["kind"] == "flow")
    matrix = next(block for block in blocks if block["kind"] == "matrix")
    assert [panel["title"] for panel in flow["panels"]] == ["all patches", "foreground patches", "background patches"]
    np.testing.assert_array_equal([panel["links"] for panel in flow["panels"]], store.read("tiny/counts"))
    assert [column["title"] for column in flow["panels"][0]["columns"]] == ["tiny:0", "tiny:1", "tiny:2"]
    probability = store.read("tiny/probability")
    shown = np.array([panel["values"] for panel in matrix["panels"]], dtype=float).reshape(2, 3, 3, 3)
    np.testing.assert_allclose(shown, probability.transpose(1, 0, 2, 3), rtol=1e-4)
    assert any(block["kind"] == "curves" for block in blocks)


def test_labels_are_painted_and_other_folders_pictures_are_copied(findings: Path) -> None:
    view = read_piece(findings, "main")["views"][0]
    assert [(labels["name"], labels["classes"][:1]) for labels in view["labels"]] == [("s", ["background"]), ("k", [])]
    labels = open_store(findings.parent / "k.zarr").read("tiny/labels")[0, 0, 1:].reshape(4, 4)
    with Image.open(findings / "data" / "s1-0-0-0-0.png") as picture:
        tile = np.asarray(picture.convert("RGB"))[:4, :4]
    for label in np.unique(labels):
        assert len(np.unique(tile[labels == label], axis=0)) == 1
    assert len(np.unique(tile.reshape(-1, 3), axis=0)) == len(np.unique(labels))
    (figure,) = [block for block in blocks_of(findings, "more") if block["kind"] == "figure"]
    assert (findings / figure["file"]).read_bytes() == (findings.parent / "pictures" / "overview.png").read_bytes()


def texts_of(report: Path) -> str:
    """All that the page says in words: its own files, titles, leads and texts of blocks."""
    files = [(report / name).read_text(encoding="utf-8") for name in page.PAGE if not name.endswith(".css")]
    sections = read_piece(report, "main")["sections"]
    own = [
        f"{s['title']} {s['lead']} {b['title']} {b.get('about')}"
        for s in sections
        for p in s["parts"]
        for b in p["blocks"]
    ]
    return "\n".join([*files, *own])


def test_nothing_is_said_that_need_not_be_true(findings: Path) -> None:
    """On random responses and random weights no text may claim what the paper found."""
    said = texts_of(findings)
    for claim in (
        *("concepts that they share", "nothing in common", "no better than the mean", "as the paper found"),
        *("Like colours mean like places in the shared space", "has found nothing", "treat alike", "darker is better"),
        *("would excite", "it has never seen", "that people have outlined", "many patches gather"),
    ):
        assert claim not in said, claim


def test_texts_follow_the_figures(findings: Path) -> None:
    scores = open_store(findings.parent / "s.zarr")
    miou, shuffled = scores.read("scores/miou"), scores.read("scores/shuffled")
    model, layer = np.unravel_index(np.nanargmax(miou), miou.shape)
    curve = blocks_of(findings, "segments")[0]
    assert f"Highest {miou[model, layer]:.3f} at {('tiny', 'pair')[model]}:{layer}" in curve["about"]
    assert f"other images' masks give {shuffled[model, layer]:.3f}" in curve["about"]
    labels, values = read_square(findings.parent / "compare" / "similarity-before.csv") or ([], [])
    between = [
        value
        for a, row in zip(labels, values, strict=True)
        for b, value in zip(labels, row, strict=True)
        if a.partition(":")[0] != b.partition(":")[0] and value is not None
    ]
    about = blocks_of(findings, "slots")[0]["about"]
    assert f"Similarity before: {np.mean(between):.3f} on average between layers of different models." in about


def test_shares_of_slot_and_photo_stand_beside_similarity_where_there_are_any(tmp_path: Path) -> None:
    values = {"clip": np.random.default_rng(0).standard_normal((2, 4, 5, 3))}
    shares = {"clip:0": {"slot": None, "photo": 0.25}, "clip:1": {"slot": None, "photo": 0.5}}
    given = make_node_store(tmp_path / "e.zarr", "eigs", values, grid=(2, 2), summary={"shares": shares})
    bare = make_node_store(tmp_path / "b.zarr", "eigs", values, grid=(2, 2))
    (table,) = blocks_of(done("report", given, "-o", tmp_path / "with"), "shares")
    assert table["header"] == ["graph", "slot share", "photo share"]
    assert table["rows"] == [["clip:0", None, 0.25], ["clip:1", None, 0.5]]
    without = read_piece(done("report", bare, "-o", tmp_path / "without"), "main")
    assert without["sections"] == []


def test_the_page_says_of_each_space_what_its_colours_mean(tmp_path: Path) -> None:
    values = {name: np.random.default_rng(0).standard_normal((2, 4, 5, 3)) for name in ("clip", "mae")}
    stores = [
        make_node_store(
            tmp_path / f"{name}.zarr", "eigs", values, grid=(2, 2), group=group, comparable=comparable, x=name
        )
        for name, group, comparable in (("one", "all", True), ("raw", "all", False), ("each", "model", True))
    ]
    views = read_piece(done("report", *stores, "-o", tmp_path / "page"), "main")["views"]
    assert [view["meaning"].partition(":")[0] for view in views] == [
        "Like colours mean like places in one space, across photos, layers and models.",
        "These features are not aligned",
        "Every model has a map of its own",
    ]
