from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from aligncut_cli.brain.join import ORDERS, join_images, suspect_pairing
from aligncut_cli.errors import BadInput


def test_images_and_responses_meet_by_name_in_any_order() -> None:
    joined = join_images(["c", "a"], ["a", "b", "c"], n_responses=3)
    assert joined.feature_rows.tolist() == [0, 1]
    assert joined.response_rows.tolist() == [2, 0]
    assert joined.responses_without_image == 1


def test_folders_are_ignored_only_where_that_is_unambiguous() -> None:
    joined = join_images(["x/a", "y/b"], ["b", "a"], n_responses=2)
    assert joined.response_rows.tolist() == [1, 0]
    joined = join_images(["a", "b"], ["stimuli/b", "stimuli/a"], n_responses=2)
    assert joined.response_rows.tolist() == [1, 0]
    exact = join_images(["x/a", "y/a"], ["y/a", "x/a"], n_responses=2)
    assert exact.response_rows.tolist() == [1, 0]
    with pytest.raises(BadInput, match="called a"):
        join_images(["x/a", "y/a"], ["a"], n_responses=1)
    with pytest.raises(BadInput, match="called a"):
        join_images(["a", "b"], ["x/a", "y/a", "x/b"], n_responses=3)


def test_images_without_a_response_are_named() -> None:
    with pytest.raises(BadInput, match=r"2 of 3 images have no response: q, r"):
        join_images(["a", "q", "r"], ["a", "b"], n_responses=2)
    with pytest.raises(BadInput, match="No image"):
        join_images(["q"], ["a"], n_responses=1)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["s0.jpg", "s0.png"], ["s0.png", "s0.jpg"]),  # both formats of one stem
        (["a.pgm", "b.avif"], ["b.avif", "a.pgm"]),
        (["a.jpg", "b.jpg"], ["b.png", "a.png"]),  # converted since
        (["x/a.jpg", "x/b.jpg"], ["x\\b.jpg", "x\\a.jpg"]),
        (["a.jpg", "b.jpg"], ["C:\\stimuli\\b.jpg", "C:\\stimuli\\a.jpg"]),
        (["a.jpg", "b.jpg"], ["./b.jpg", "./a.jpg"]),
        ([unicodedata.normalize("NFD", "été.jpg"), "b.jpg"], ["b", unicodedata.normalize("NFC", "été")]),
        (["img.001.jpg", "img.002.jpg"], ["img.002", "img.001"]),
        (["shared0001_nsd02951.png", "train-0001_nsd-00028.png"], ["nsd-00028", "nsd-02951"]),
        (["2951.png", "00028.png"], ["nsd-00028", "nsd-02951"]),
        (["IMG_1.JPG", "img_2.jpg"], ["IMG_2.jpg", "img_1.jpg"]),
    ],
)
def test_the_same_image_is_known_however_its_name_is_written(files: list[str], named: list[str]) -> None:
    """Two images, whose rows come in the other order."""
    stems = [Path(name).with_suffix("").as_posix() for name in files]
    ids = files if len(set(stems)) < len(stems) else stems
    joined = join_images(ids, named, n_responses=2, paths=[f"/photos/{name}" for name in files])
    assert joined.response_rows.tolist() == [1, 0]
    assert joined.record["first"] == {"row": 0, "image": ids[1]}


def test_names_that_two_images_share_are_never_guessed() -> None:
    with pytest.raises(BadInput, match="called s0"):
        join_images(["s0.jpg", "s0.png"], ["s0", "s1"], n_responses=2, paths=["s0.jpg", "s0.png"])
    nfc, nfd = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    with pytest.raises(BadInput, match="accent"):
        join_images([nfc, nfd], [nfc, nfd], n_responses=2)


# ---- without names


def listed_by(order: str, folder: Path) -> list[str]:
    """What the order's namesake lists, by its own code or by a copy of its rule."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if order == "path":
        return sorted(files)
    if order == "imagefolder":
        found = []
        for name in sorted(entry.name for entry in folder.iterdir() if entry.is_dir()):
            for root in sorted(path for path in [folder / name, *(folder / name).rglob("*")] if path.is_dir()):
                found += [path.relative_to(folder).as_posix() for path in sorted(root.iterdir()) if path.is_file()]
        return found
    return sorted(files, key=lambda name: name.rsplit(".", 1)[0])


@pytest.mark.parametrize("order", ["name", "path", "imagefolder"])
def test_an_order_is_that_of_what_it_is_named_after(tmp_path: Path, order: str) -> None:
    for name in ("cat/b.jpg", "cat/a-b.jpg", "cat/a.jpg", "cat-big/z.jpg", "cat/deep/y.jpg", "dog/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ids = sorted(path.relative_to(tmp_path).with_suffix("").as_posix() for path in tmp_path.rglob("*.*g"))
    paths = [str(next(tmp_path.glob(f"{name}.*"))) for name in ids]
    joined = join_images(ids, None, n_responses=len(ids), paths=paths, order=order)
    files = [Path(path).relative_to(tmp_path).as_posix() for path in paths]
    rows = {files[image]: row for image, row in zip(joined.feature_rows, joined.response_rows, strict=True)}
    assert sorted(rows, key=rows.__getitem__) == listed_by(order, tmp_path)
    assert joined.record["rule"] == f"order {order}"


def test_imagefolder_is_the_order_of_torchvision(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets.folder")
    for name in ("cat/b.jpg", "cat/a-b.jpg", "cat/a.jpg", "cat-big/z.jpg", "cat/deep/y.jpg", "dog/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    classes, index = datasets.find_classes(str(tmp_path))
    listed = [path for path, _ in datasets.make_dataset(str(tmp_path), index, extensions=(".jpg", ".png"))]
    assert len(classes) == 3
    assert [Path(path).relative_to(tmp_path).as_posix() for path in listed] == listed_by("imagefolder", tmp_path)


@pytest.mark.parametrize(
    ("files", "other"),
    [
        (["a-b.jpg", "a.jpg"], "path"),
        (["image1.jpg", "image10.jpg", "image2.jpg"], "natural"),
        (["cat-big/a.jpg", "cat/a.jpg"], "imagefolder"),
        (["B.jpg", "a.jpg"], "caseless"),
        (["b.jpg", "a.jpg"], "given"),
    ],
)
def test_orders_that_differ_are_refused_with_the_rows_that_do(files: list[str], other: str) -> None:
    ids = [name.removesuffix(".jpg") for name in files]
    given = ids if other == "given" else sorted(ids)
    paths = [f"/p/{name}.jpg" for name in given]
    with pytest.raises(BadInput, match=r"row \d: .* or .*\n  row \d: .* or ") as refused:
        join_images(given, None, n_responses=len(ids), paths=paths)
    assert f"{other}" in refused.value.do
    assert "--image-ids" in refused.value.do
    rows = {order: join_images(given, None, n_responses=len(ids), paths=paths, order=order) for order in ORDERS}
    assert rows[other].response_rows.tolist() != rows["name"].response_rows.tolist()


def test_where_all_orders_agree_the_pairing_is_said_and_recorded() -> None:
    ids = ["image01", "image02", "image10"]
    joined = join_images(ids, None, n_responses=3, paths=[f"/p/{name}.png" for name in ids])
    assert joined.response_rows.tolist() == [0, 1, 2]
    assert joined.record["first"] == {"row": 0, "image": "image01"}
    assert joined.record["last"] == {"row": 2, "image": "image10"}
    assert (
        joined.describe() == "responses joined by the only plausible order of names: row 0 = image01, row 2 = image10"
    )
    join_images([*ids, "é²"], None, n_responses=4)


def test_counts_must_agree_without_names() -> None:
    with pytest.raises(BadInput, match=r"(?s)2 images but 3 rows.*voxels x images must be transposed"):
        join_images(["a", "b"], None, n_responses=3)


def test_rows_that_are_left_out_take_their_images_along() -> None:
    usable = np.array([True, False, True])
    joined = join_images(["a", "b", "c"], None, n_responses=3, usable=usable)
    assert joined.feature_rows.tolist() == [0, 2]
    assert joined.response_rows.tolist() == [0, 2]
    assert joined.record["images_left_out"] == 1
    with pytest.raises(BadInput, match="nothing is left"):
        join_images(["a", "b"], ["a", "b"], n_responses=2, usable=np.zeros(2, dtype=bool))


# ---- suspicion


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_a_shuffled_join_is_suspected_whether_or_not_voxels_hang_together(shared: float) -> None:
    """Under the null in at least nine of ten draws; with a tenth of voxels planted at r = 0.6 never."""
    rng = np.random.default_rng(0)
    n_images, n_voxels, suspected, doubted = 80, 200, 0, 0
    for _ in range(60):
        common = rng.standard_normal((n_images, 1))
        noise = shared * common + (1 - shared) * rng.standard_normal((n_images, n_voxels))
        prediction = rng.standard_normal((n_images, 1))
        r = np.array([np.corrcoef(prediction[:, 0], noise[:, v])[0, 1] for v in range(n_voxels)])
        suspected += suspect_pairing(r, n_images) is not None
        planted = r.copy()
        planted[: n_voxels // 10] = 0.6
        doubted += suspect_pairing(planted, n_images) is not None
    assert suspected >= 54
    assert doubted == 0


def test_few_images_tell_nothing_about_the_pairing() -> None:
    assert suspect_pairing(np.zeros(10), 6) is None
    assert suspect_pairing(np.zeros(10), 7) is not None
