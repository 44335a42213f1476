"""Masks that are not exactly a class map or a binary mask: understood where there is one meaning, else refused."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligncut_cli.errors import AlignCutError, BadInput, UsageError
from aligncut_cli.masks import IGNORE, guess_format, open_masks
from aligncut_cli.masks.label_image import read_label_image
from aligncut_cli.masks.values import survey_masks


def save(path: Path, rows: object, dtype: type = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(rows, dtype)).save(path)
    return path


def read(folder: Path, name: str = "a", **more: object) -> list[list[int]]:
    return open_masks(folder, format="png", **more).read(name).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ([0, 128, 255], "--threshold 128"),  # a trimap
        ([0, 254], "--threshold 128"),
        ([0, 1, 254, 255], "--threshold 128"),
        ([0, 3, 7, 250, 252, 255], "--threshold 128"),  # smoothed edges
        (list(range(200)), "--threshold 128"),
        ([0, 17, 64], "--classes"),  # some of COCO's classes
        ([0, 200], "--classes"),
    ],
)
def test_values_that_could_mean_two_things_are_refused_with_a_histogram(
    tmp_path: Path, values: list[int], option: str
) -> None:
    save(tmp_path / "a.png", [values])
    with pytest.raises(BadInput) as refused:
        read(tmp_path)
    assert option in refused.value.do
    assert "%" in refused.value.what
    assert "a.png" in refused.value.what


@pytest.mark.parametrize(
    "values", [[0, 38], [7, 23, 26], [0, 128], [130, 200], [0, 65535], [300, 1000]], ids=lambda values: str(max(values))
)
def test_the_threshold_that_a_refusal_advises_parts_the_values_at_hand(tmp_path: Path, values: list[int]) -> None:
    save(tmp_path / "a.png", [values], np.uint16 if max(values) > 255 else np.uint8)
    with pytest.raises(BadInput, match="neither binary nor classes") as refused:
        read(tmp_path)
    advised = re.search(r"--threshold (\d+)", refused.value.do)
    assert advised
    assert set(read(tmp_path, threshold=int(advised[1]))[0]) == {0, 1}


def test_one_odd_pixel_in_one_of_many_masks_is_found(tmp_path: Path) -> None:
    for k in range(40):
        save(tmp_path / f"m{k:02}.png", [[0, 255], [255, 0]])
    assert read(tmp_path, "m07") == [[0, 1], [1, 0]]
    save(tmp_path / "m33.png", [[0, 255], [254, 0]])
    with pytest.raises(BadInput, match=r"m33\.png has 254"):
        read(tmp_path, "m07")
    assert read(tmp_path, "m33", threshold=128) == [[0, 1], [1, 0]]


@pytest.mark.parametrize("values", [[0, 1], [0, 1, 2, 3], [0, 1, 3], [0, 2, 255], [0, *range(1, 21), 255]])
def test_class_maps_are_read_as_they_are(tmp_path: Path, values: list[int]) -> None:
    save(tmp_path / "a.png", [values])
    assert read(tmp_path) == [[IGNORE if value == 255 else value for value in values]]


def test_a_threshold_parts_object_and_background_and_ignores_nothing(tmp_path: Path) -> None:
    save(tmp_path / "a.png", [[0, 127, 128, 254, 255]])
    assert read(tmp_path, threshold=128) == [[0, 0, 1, 1, 1]]
    assert open_masks(tmp_path, format="png", threshold=128).classes == ("background", "foreground")
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert read(tmp_path, threshold=1) == [[0, 1, 1, 1, 1]]
    with pytest.raises(UsageError, match="--threshold"):
        read(tmp_path, threshold=1, classes=tmp_path / "classes.txt")
    with pytest.raises(BadInput, match="one class only"):
        read(tmp_path, threshold=300)


def test_sixteen_bit_masks_say_that_they_are(tmp_path: Path) -> None:
    save(tmp_path / "a.png", [[0, 65535]], np.uint16)
    with pytest.raises(BadInput, match=r"16 bits per pixel[\s\S]*--threshold 32768"):
        read(tmp_path)
    assert read(tmp_path, threshold=32768) == [[0, 1]]
    save(tmp_path / "a.png", [[0, 1000]], np.uint16)
    with pytest.raises(BadInput, match="16 bits"):
        read(tmp_path)


# ---- names of classes


def test_a_stray_file_of_names_is_said_and_refused_where_it_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("null\nhat\nshoe\n")
    save(tmp_path / "masks" / "a.png", [[0, 1, 2]])
    masks = open_masks(tmp_path / "masks", format="png")
    assert masks.classes == ("null", "hat", "shoe")
    assert f"class names are taken from {tmp_path}/classes.txt" in masks.notes[0]
    given = open_masks(tmp_path / "masks", format="png", classes=tmp_path / "classes.txt")
    assert given.notes == ()
    for rows in ([[0, 255]], [[255, 255]]):  # binary masks are none of three classes
        save(tmp_path / "masks" / "a.png", rows)
        with pytest.raises(BadInput, match=r"classes\.txt names 3 classes[\s\S]*--threshold 128"):
            read(tmp_path / "masks")


def test_two_names_fit_binary_masks(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("ground\nfigure\n")
    save(tmp_path / "a.png", [[0, 255]])
    assert read(tmp_path) == [[0, 1]]
    assert open_masks(tmp_path, format="png").classes == ("ground", "figure")


@pytest.mark.parametrize("rows", [[[0, 0]], [[255, 255]], [[1, 1]], [[0, 0]] * 2, [[3, 3, 255]]])
@pytest.mark.parametrize("names", ["", "a\nb\n", "a\nb\nc\nd\n"])
def test_masks_of_one_class_are_an_error(tmp_path: Path, rows: list[list[int]], names: str) -> None:
    save(tmp_path / "masks/a.png", rows)
    if names:
        (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(BadInput):
        read(tmp_path / "masks")


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\0", b"a\nb\x00c\n", b"a\n" + b"x" * 300, b"a\n" * 2, b"a\n" * 10**6]
)
def test_not_every_file_names_classes(tmp_path: Path, content: bytes) -> None:
    save(tmp_path / "a.png", [[0, 1]])
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(BadInput, match="names"):
        read(tmp_path, classes=tmp_path / "names")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="pipe or device"):
        read(tmp_path, classes=tmp_path / "pipe")


# ---- files


def test_the_survey_counts_every_pixel_of_every_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stacks = [rng.choice([0, 1, 2, 7, 255], (5, 6)) for _ in range(100)]
    files = [save(tmp_path / f"{k:03}.png", values) for k, values in enumerate(stacks)]
    survey = survey_masks(files, read_label_image)
    assert survey.values == [0, 1, 2, 7, 255]
    for value in survey.values:
        assert survey.pixels[value] == sum(int((values == value).sum()) for values in stacks)
        assert (np.asarray(Image.open(survey.example[value])) == value).any()


def test_one_png_is_the_mask_of_one_image(tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", [[0, 1]])
    assert guess_format(file) == "png"
    assert open_masks(file, format="auto").read("a").tolist() == [[0, 1]]


def test_other_pictures_are_no_masks_and_the_message_says_why(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", [[0, 255]])
    with pytest.raises(BadInput, match=r"a\.jpg are no PNGs: JPEG blurs"):
        open_masks(tmp_path, format="auto")
    with pytest.raises(BadInput, match="a folder or a PNG"):
        open_masks(tmp_path / "a.jpg", format="auto")


def test_a_mask_is_found_however_its_accents_are_written(tmp_path: Path) -> None:
    save(tmp_path / f"{unicodedata.normalize('NFD', 'été')}.png", [[0, 1]])
    masks = open_masks(tmp_path, format="png")
    assert masks.read(unicodedata.normalize("NFC", "été")).tolist() == [[0, 1]]
    assert masks.read(unicodedata.normalize("NFC", "été.jpg")).tolist() == [[0, 1]]


def test_two_files_for_one_image_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png", [[0, 1]])
    save(tmp_path / "b.png", [[0, 2]]).rename(tmp_path / "a.PNG")
    with pytest.raises(BadInput, match="mask of image 'a'"):
        open_masks(tmp_path, format="png")


def test_our_own_pictures_and_pipes_are_no_masks(tmp_path: Path) -> None:
    save(tmp_path / "a.png", [[0, 1]])
    save(tmp_path / "pictures/b.png", [[0, 9]])
    (tmp_path / "pictures/aligncut.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.png")
    assert open_masks(tmp_path, format="png").ids == ("a",)


def test_damaged_masks_are_refused_by_name(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.png", np.eye(16, dtype=np.uint8)).read_bytes()
    rng, refused = np.random.default_rng(1), []
    for _ in range(150):
        data = bytearray(whole)
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "a.png").write_bytes(bytes(data[: int(rng.integers(len(data) // 2, len(data) + 1))]))
        try:
            read(tmp_path)
        except AlignCutError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all("a.png" in message or str(tmp_path) in message for message in refused)


# ---- PASCAL VOC


def make_voc(root: Path, *, aug: bool = False) -> None:
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("\ufeff2007_000033\r\n2007_000042\r\n", encoding="utf-8", newline="")
    (lists / "train.txt").write_text("2007_000032\n")
    for name, value in (("2007_000032", 1), ("2007_000033", 2), ("2007_000042", 3)):
        save(root / "SegmentationClass" / f"{name}.png", [[0, value, 255]])
    if aug:
        save(root / "SegmentationClassAug" / "2008_000001.png", [[0, 20]])


def test_voc_takes_a_split_and_a_list_of_ones_own(tmp_path: Path) -> None:
    make_voc(tmp_path, aug=True)
    assert open_masks(tmp_path, format="auto").ids == ("2007_000033", "2007_000042")
    assert open_masks(tmp_path, format="voc", split="train").ids == ("2007_000032",)
    own = tmp_path / "own.txt"
    own.write_text("/JPEGImages/2008_000001.jpg /SegmentationClassAug/2008_000001.png\n2007_000042\n")
    masks = open_masks(tmp_path, format="voc", split=str(own))
    assert masks.ids == ("2008_000001", "2007_000042")
    assert masks.read("2008_000001").tolist() == [[0, 20]]
    with pytest.raises(BadInput, match=r"--split"):
        open_masks(tmp_path, format="voc", split="test")


def test_a_part_of_voc_is_enough(tmp_path: Path) -> None:
    make_voc(tmp_path)
    (tmp_path / "SegmentationClass" / "2007_000042.png").unlink()
    masks = open_masks(tmp_path, format="voc")
    assert masks.ids == ("2007_000033",)
    assert masks.missing(["2007_000033", "2007_000042"]) == ["2007_000042"]
    assert "1 of the 2 images" in masks.notes[0]


def test_the_extended_voc_alone_is_voc(tmp_path: Path) -> None:
    save(tmp_path / "SegmentationClassAug" / "2008_000001.png", [[0, 20]])
    (tmp_path / "list.txt").write_text("2008_000001\n")
    assert guess_format(tmp_path) == "voc"
    assert open_masks(tmp_path, format="auto", split=str(tmp_path / "list.txt")).read("2008_000001").tolist() == [
        [0, 20]
    ]


def test_images_whose_masks_hold_one_class_are_refused_in_every_format(tmp_path: Path) -> None:
    make_voc(tmp_path / "voc")
    save(tmp_path / "voc/SegmentationClass/2007_000033.png", [[0, 0, 255]])
    save(tmp_path / "png/a.png", [[0, 1]])
    save(tmp_path / "png/b.png", [[1, 1]])
    voc, png = (open_masks(tmp_path / name, format="auto") for name in ("voc", "png"))
    voc.require(["2007_000033", "2007_000042"])
    png.require(["b", "a"])
    with pytest.raises(BadInput, match="one class only, background"):
        voc.require(["2007_000033"])
    with pytest.raises(BadInput, match="one class only, foreground"):
        png.require(["b"])
    save(tmp_path / "voc/SegmentationClass/2007_000033.png", [[255, 255]])
    with pytest.raises(BadInput, match="nothing but ignored"):
        voc.require(["2007_000033"])
    png.require([])
