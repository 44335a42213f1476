"""Scores of single images, runs compared on them, and masks whose classes count otherwise than their files say."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aligncut_cli.masks import open_masks
from aligncut_cli.store.read import open_store
from tests.conftest import aligncut, done
from tests.stages.made_stores import make_node_store
from tests.stages.test_segment import halves, perfect_rows, write_mask

Masks = list[NDArray[np.int64]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 masks of two halves; eigenvectors that know them, and others that know them less."""
    folder = tmp_path_factory.mktemp("world")
    truth = halves(14)
    for index, mask in enumerate(truth):
        write_mask(folder / "masks" / f"image-{index:03d}.png", mask)
    for name, noise in (("good", 0.1), ("bad", 0.8)):
        rows = perfect_rows(truth) + noise * np.random.default_rng(3).standard_normal((2, 14, 17, 2))
        make_node_store(folder / f"{name}.zarr", "eigs", {"clip": rows}, grid=(4, 4))
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_each_image_has_the_score_that_it_has_alone_with_the_labels_of_all(tmp_path: Path, world: Path) -> None:
    """Against loops over the labels' pixels, at the resolution of tokens, where a label is a token's."""
    args = ["--masks", world / "masks", "--resolution", "tokens", "--figures", tmp_path / "out"]
    store = open_store(done("segment", world / "bad.zarr", "-o", tmp_path / "s.zarr", *args))
    found, labels = store.read("scores/each_image")[0], store.read("clip/labels")
    masks = open_masks(world / "masks", format="png")
    for layer in range(2):
        for image in range(14):
            mask = masks.read(f"image-{image:03d}")
            side = mask.shape[0] // 4
            truth = mask[side // 2 :: side, side // 2 :: side].ravel()
            ious = []
            for c in (0, 1):
                ours = labels[layer, image, 1:] == c
                if (ours | (truth == c)).any():
                    ious.append((ours & (truth == c)).sum() / (ours | (truth == c)).sum())
            assert found[layer, image] == pytest.approx(np.mean(ious))
    np.testing.assert_allclose(found.mean(axis=1), store.read("scores/image_miou")[0], rtol=1e-6)
    rows = read_csv(tmp_path / "out" / "images.csv")
    assert [(row["layer"], row["image"]) for row in rows[:14]] == [("0", f"image-{i:03d}") for i in range(14)]
    np.testing.assert_allclose([float(row["miou"]) for row in rows], found.ravel(), rtol=1e-6)
    assert "image_miou" in read_csv(tmp_path / "out" / "scores.csv")[0]


def test_runs_are_compared_image_by_image_with_p(tmp_path: Path, world: Path) -> None:
    runs = [f"{name}={world / f'{name}.zarr'}" for name in ("bad", "good")] + [f"again={world / 'bad.zarr'}"]
    args = ["--masks", world / "masks", "--figures", tmp_path / "out"]
    result = aligncut("segment", *runs, "-o", tmp_path / "s.zarr", *args)
    assert result.code == 0, result.err
    pairs = {(row["second"], row["model"], row["layer"]): row for row in read_csv(tmp_path / "out" / "pairs.csv")}
    assert set(pairs) == {
        (second, *slot) for second in ("good", "again") for slot in (("", ""), ("clip", "0"), ("clip", "1"))
    }
    each = open_store(tmp_path / "s.zarr").read("runs/each_image")[:, 0]
    better = each[1].mean(axis=0) - each[0].mean(axis=0)
    row = pairs["good", "", ""]
    assert float(row["difference"]) == pytest.approx(better.mean(), rel=1e-5)
    assert float(row["p"]) < 0.01
    assert float(pairs["again", "", ""]["p"]) == 1
    assert f"good less bad, mIoU of single images, all layers averaged: {better.mean():+.3f}" in result.err


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A mask of three classes, with ignored pixels in each."""
    rng = np.random.default_rng(0)
    for index in range(2):
        mask = rng.integers(0, 3, (8, 8))
        mask[0, :3] = -1
        write_mask(tmp_path / "masks" / f"m{index}.png", mask)
    (tmp_path / "masks" / "classes.txt").write_text("sky\nsea\nsand\n")
    return tmp_path / "masks"


@pytest.mark.parametrize(
    ("ignored", "background", "classes", "places"),
    [
        ([], "sea", ("sea", "sky", "sand"), [1, 0, 2]),
        (["sand"], None, ("sky", "sea", "sand"), [0, 1, -1]),
        (["sky", "sand"], "sea", ("sea", "sky", "sand"), [-1, 0, -1]),
        ([], "none", ("sky", "sea", "sand"), [0, 1, 2]),
    ],
)
def test_classes_are_ignored_and_the_background_is_the_one_that_is_named(
    three: Path, ignored: list[str], background: str | None, classes: tuple[str, ...], places: list[int]
) -> None:
    plain, found = (
        open_masks(three, format="png"),
        open_masks(three, format="png", ignored=ignored, background=background),
    )
    assert found.classes == classes
    assert found.has_background is (background != "none")
    for name in ("m0", "m1"):
        expected = [[-1 if value < 0 else places[value] for value in row] for row in plain.read(name)]
        np.testing.assert_array_equal(found.read(name, size=(8, 8)), expected)


def test_without_a_background_every_pixel_takes_its_nearest_class(tmp_path: Path, world: Path) -> None:
    args = ["--masks", world / "masks", "--background", "none", "--resolution", "tokens"]
    store = open_store(done("segment", world / "bad.zarr", "-o", tmp_path / "s.zarr", *args))
    rows = open_store(world / "bad.zarr").read("clip/eigvecs")[:, :, 1:]
    masks = np.array([open_masks(world / "masks", format="png").read(f"image-{i:03d}") for i in range(14)])
    side = masks.shape[1] // 4
    truth = masks[:, side // 2 :: side, side // 2 :: side].reshape(14, 16)
    for layer in range(2):
        centres = np.stack([rows[layer][truth == c].mean(axis=0) for c in (0, 1)])
        unit = [value / np.linalg.norm(value, axis=-1, keepdims=True) for value in (rows[layer], centres)]
        np.testing.assert_array_equal(store.read("clip/labels")[layer, :, 1:], (unit[0] @ unit[1].T).argmax(axis=-1))
    assert (store.read("scores/threshold") == -1).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--background", "cloud"], "'cloud' is no class"),
        (["--ignore-class", "cloud"], "They are: background, foreground"),
        (["--ignore-class", "background"], "cannot be ignored"),
        (["--ignore-class", "foreground"], "one class only"),
    ],
)
def test_classes_that_there_are_not_are_refused(tmp_path: Path, world: Path, options: list[str], words: str) -> None:
    result = aligncut("segment", world / "bad.zarr", "-o", tmp_path / "s.zarr", "--masks", world / "masks", *options)
    assert result.code in (2, 3), result.err
    assert words in result.err


def test_figure_and_ground_need_a_background(tmp_path: Path, tsne: Path, world: Path) -> None:
    args = ["--along", "tiny", "--masks", world / "masks", "--background", "none"]
    result = aligncut("transitions", tsne, "-o", tmp_path / "x.zarr", *args)
    assert result.code == 2
    assert "cannot be told from ground" in result.err
