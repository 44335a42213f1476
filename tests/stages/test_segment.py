"""`segment` as a whole, against per-pixel loops in plain Python and on worlds whose answers are known."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aligncut_cli.maths.segmentation import pick_other_images
from aligncut_cli.store.read import open_store
from tests.conftest import aligncut, array_bytes, done, make_photos, spawn
from tests.stages.made_stores import make_node_store

THRESHOLDS = [i / 9 for i in range(10)]


def write_mask(path: Path, mask: NDArray[np.integer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(mask < 0, 255, mask).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of the shared photos: three classes in blobs, a border that is ignored, and a class that never occurs."""
    folder = tmp_path_factory.mktemp("truth") / "masks"
    rng = np.random.default_rng(5)
    for index in range(12):
        coarse = Image.fromarray(rng.integers(0, 3, (5, 4), dtype=np.uint8))
        mask = np.array(coarse.resize((48 + index, 48), Image.Resampling.NEAREST)).astype(int)
        mask[:2, :7] = -1
        write_mask(folder / f"photo-{index:03d}.png", mask)
    (folder / "classes.txt").write_text("background\ncat\ndog\nunicorn\n")
    return folder


def read_masks(folder: Path) -> list[NDArray[np.int64]]:
    values = [np.array(Image.open(file)).astype(int) for file in sorted(folder.glob("photo-*.png"))]
    return [np.where(value == 255, -1, value) for value in values]


def naive_scores(rows: NDArray[np.floating], masks: list[NDArray[np.int64]], side: int, n_classes: int) -> dict:
    """Appendix C.4 for one slot, pixel by pixel.

    rows : (image, patch, eig)
    """
    n_eig = rows.shape[2]
    sums = [[0.0] * n_eig for _ in range(n_classes)]
    weights = [0.0] * n_classes
    for image, mask in enumerate(masks):
        height, width = mask.shape
        cell = {}
        for y in range(height):
            for x in range(width):
                token = math.floor((y + 0.5) * side / height) * side + math.floor((x + 0.5) * side / width)
                cell.setdefault(token, []).append(int(mask[y, x]))
        for token, labels in cell.items():
            for label in set(labels) - {-1}:
                share = labels.count(label) / len(labels)
                weights[label] += share
                for i in range(n_eig):
                    sums[label][i] += share * float(rows[image, token, i])
    centres = {c: [v / weights[c] for v in sums[c]] for c in range(n_classes) if weights[c] > 0}

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return dot / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))

    predictions = []  # of every pixel: truth, best class, its similarity, image
    for image, mask in enumerate(masks):
        height, width = mask.shape
        similar = [
            {c: cosine([float(v) for v in rows[image, token]], centre) for c, centre in centres.items()}
            for token in range(side * side)
        ]
        for y in range(height):
            for x in range(width):
                if mask[y, x] < 0:
                    continue
                v = min(max((y + 0.5) * side / height - 0.5, 0), side - 1)
                u = min(max((x + 0.5) * side / width - 0.5, 0), side - 1)
                top, left = min(int(v), side - 2), min(int(u), side - 2)
                mixed = {}
                for c in centres:
                    upper = similar[top * side + left][c] * (1 - u + left)
                    upper += similar[top * side + left + 1][c] * (u - left)
                    lower = similar[(top + 1) * side + left][c] * (1 - u + left)
                    lower += similar[(top + 1) * side + left + 1][c] * (u - left)
                    mixed[c] = upper * (1 - v + top) + lower * (v - top)
                best = max(mixed, key=lambda c: mixed[c])
                predictions.append((int(mask[y, x]), best, mixed[best], image))

    def mean_iou(chosen: list[tuple[int, int]]) -> tuple[float, list[float]]:
        ious = []
        for c in range(n_classes):
            both = sum(1 for truth, label in chosen if truth == c and label == c)
            either = sum(1 for truth, label in chosen if c in (truth, label))
            ious.append(both / either if either else math.nan)
        present = [iou for iou in ious if not math.isnan(iou)]
        return sum(present) / len(present), ious

    results = []
    for threshold in THRESHOLDS:
        labelled = [(truth, best if s >= threshold else 0, image) for truth, best, s, image in predictions]
        miou, ious = mean_iou([(t, p) for t, p, _ in labelled])
        by_image = [mean_iou([(t, p) for t, p, i in labelled if i == image])[0] for image in range(len(masks))]
        results.append((miou, ious, sum(by_image) / len(by_image), threshold))
    miou, ious, image_miou, threshold = max(results, key=lambda r: r[0])
    return {"miou": miou, "iou": ious, "image_miou": image_miou, "threshold": threshold}


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory, eigs: Path, masks: Path) -> Path:
    return done("segment", eigs, "-o", tmp_path_factory.mktemp("segments") / "s.zarr", "--masks", masks)


def test_scores_are_those_of_plain_loops_over_pixels(eigs: Path, masks: Path, segments: Path) -> None:
    store, scored = open_store(eigs), open_store(segments)
    assert scored.group["scores"].attrs["classes"] == ["background", "cat", "dog", "unicorn"]
    for model, name in ((0, "tiny"), (1, "pair")):
        rows = store.read(f"{name}/eigvecs")[1, :, 1:]
        expected = naive_scores(rows, read_masks(masks), 4, 4)
        for score in ("miou", "threshold", "image_miou"):
            assert scored.read(f"scores/{score}")[model, 1] == pytest.approx(expected[score], abs=2e-3), score
        np.testing.assert_allclose(scored.read("scores/iou")[model, 1], expected["iou"], atol=2e-3)
        assert math.isnan(scored.read("scores/iou")[model, 1, 3])


def halves(n_images: int, size: int = 48) -> list[NDArray[np.int64]]:
    """Left or right half an object, at random; along the borders of a 4 x 4 grid."""
    masks = []
    for left in np.random.default_rng(3).integers(0, 2, n_images):
        mask = np.zeros((size, size), int)
        mask[:, size // 2 :] = 1
        masks.append(mask[:, ::-1] if left else mask)
    return masks


def perfect_rows(masks: list[NDArray[np.int64]], n_classes: int = 2) -> NDArray[np.float32]:
    """Eigenvectors that are the class of each token: (image, token, eig), class token first."""
    rows = np.zeros((len(masks), 17, n_classes), np.float32)
    rows[:, 0] = 1
    for image, mask in enumerate(masks):
        labels = mask[6::12, 6::12].ravel()
        rows[image, np.arange(1, 17), labels] = 1
    return rows


def test_perfect_eigenvectors_score_one_and_other_images_masks_score_chance(tmp_path: Path) -> None:
    truth = halves(40)
    for index, mask in enumerate(truth):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", mask)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 17, 2)).astype(np.float32)
    values = {"clip": np.stack([perfect_rows(truth), noise])}
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", values, grid=(4, 4))
    for resolution in ("pixels", "tokens"):
        output = tmp_path / f"{resolution}.zarr"
        store = open_store(
            done("segment", eigs, "-o", output, "--masks", tmp_path / "masks", "--resolution", resolution)
        )
        scores = {
            name: store.read(f"scores/{name}")[0] for name in ("miou", "image_miou", "chance", "shuffled", "bound")
        }
        assert scores["miou"][0] == 1
        assert scores["image_miou"][0] == 1
        np.testing.assert_array_equal(scores["bound"], 1)
        # Labels that know nothing: p q / (p + q - p q) with p = q = 1/2 is 1/3; the best constant scores 1/4.
        # Masks have one bit each: a share agrees with the other's, and centres turn round where most do not.
        agree = np.mean([np.array_equal(truth[i], truth[j]) for i, j in enumerate(pick_other_images(40, seed=0))])
        agree = max(agree, 1 - agree)
        assert scores["shuffled"][0] == pytest.approx(agree / (2 - agree), abs=1e-6)
        assert scores["shuffled"][1] == pytest.approx(1 / 3, abs=0.08)
        assert scores["miou"][1] == pytest.approx(1 / 3, abs=0.08)
        assert scores["chance"] == pytest.approx([1 / 3, 1 / 3], abs=0.08)
        labels = store.read("clip/labels")
        assert labels.dtype == np.int16
        np.testing.assert_array_equal(labels[:, :, 0], -1)
        np.testing.assert_array_equal(labels[0, :, 1:], [mask[6::12, 6::12].ravel() for mask in truth])


def test_the_control_is_what_other_images_masks_score_when_they_are_given(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    truth = [rng.integers(0, 3, (4, 4)).repeat(12, axis=0).repeat(12, axis=1) for _ in range(9)]
    values = {"clip": rng.standard_normal((2, 9, 17, 3)) + np.stack([perfect_rows(truth, 3)] * 2)}
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", values, grid=(4, 4))
    for index, other in enumerate(pick_other_images(9, seed=0)):
        assert other != index
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", truth[index])
        write_mask(tmp_path / "others" / f"image-{index:03d}.png", truth[other])
    own, others = (
        open_store(done("segment", eigs, "-o", tmp_path / f"{name}.zarr", "--masks", tmp_path / name))
        for name in ("masks", "others")
    )
    np.testing.assert_array_equal(own.read("scores/shuffled"), others.read("scores/miou"))
    assert (own.read("scores/miou") > others.read("scores/miou")).all()


def test_ignored_pixels_never_count(tmp_path: Path) -> None:
    truth = halves(6)
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", {"clip": perfect_rows(truth)[None]}, grid=(4, 4))
    for index, mask in enumerate(truth):
        wrong = mask.copy()
        wrong[:24, :24] = -1 if index % 2 else mask[:24, :24]
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", wrong)
    (tmp_path / "masks" / "classes.txt").write_text("background\nobject\n")
    store = open_store(done("segment", eigs, "-o", tmp_path / "s.zarr", "--masks", tmp_path / "masks"))
    assert store.read("scores/miou")[0, 0] == 1


def test_layers_that_a_model_lacks_are_nan(tmp_path: Path) -> None:
    truth = halves(4)
    rows = perfect_rows(truth)[None]
    values = {"clip": np.concatenate([rows, rows]), "mae": rows}
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", values, grid=(4, 4))
    for index, mask in enumerate(truth):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", mask)
    result = aligncut("segment", eigs, "-o", tmp_path / "s.zarr", "--masks", tmp_path / "masks")
    np.testing.assert_array_equal(open_store(result.path).read("scores/miou"), [[1, 1], [1, np.nan]])
    assert "mIoU" in result.err
    assert result.err.count("clip") >= 2


def test_several_stores_stand_side_by_side_with_the_spread_of_repetitions(tmp_path: Path) -> None:
    truth = halves(12)
    for index, mask in enumerate(truth):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", mask)
    stores = []
    for seed in range(3):
        rows = np.random.default_rng(seed).standard_normal((1, 12, 17, 2)) * seed + perfect_rows(truth)
        stores.append(make_node_store(tmp_path / f"e{seed}.zarr", "eigs", {"clip": rows}, grid=(4, 4)))
    named = [f"after={stores[0]}", f"before={stores[1]}", f"before={stores[2]}"]
    result = aligncut(
        "segment", *named, "-o", tmp_path / "s.zarr", "--masks", tmp_path / "masks", "--figures", tmp_path / "out"
    )
    assert result.code == 0, result.err
    store = open_store(tmp_path / "s.zarr")
    miou = store.read("runs/miou")[:, 0, 0]
    assert store.read("scores/miou")[0, 0] == miou[0] == 1
    for store_, expected in zip(stores, miou, strict=True):
        alone = done("segment", store_, "-o", tmp_path / f"{store_.name}.s", "--masks", tmp_path / "masks")
        assert open_store(alone).read("scores/miou")[0, 0] == expected
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert [(row["model"], row["layer"]) for row in rows] == [("clip", "0")]
    assert float(rows[0]["after miou"]) == 1
    assert float(rows[0]["before miou"]) == pytest.approx(miou[1:].mean())
    assert float(rows[0]["before miou sd"]) == pytest.approx(abs(miou[1] - miou[2]) / math.sqrt(2), rel=1e-5)
    assert (rows[0]["after runs"], rows[0]["before runs"]) == ("1", "2")
    assert (tmp_path / "out" / "scores.png").stat().st_size > 5000
    assert "before" in result.err


def test_before_after_and_control_stand_in_one_row_each_with_its_own_scores(tmp_path: Path) -> None:
    truth = halves(12)
    for index, mask in enumerate(truth):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", mask)
    named = []
    for name, noise, controls in (("before", 0.7, []), ("after", 0.0, []), ("control", 3.0, ["shuffled pairs"])):
        rng = np.random.default_rng(4)
        rows = {
            model: rng.standard_normal((2, 12, 17, 2)) * noise + perfect_rows(truth) * [[[[scale]]]]
            for model, scale in (("clip", 1.0), ("mae", 0.5))
        }
        path = make_node_store(tmp_path / f"{name}.zarr", "eigs", rows, grid=(4, 4), controls=controls)
        named.append(f"{name}={path}")
    result = aligncut(
        "segment", *named, "-o", tmp_path / "s.zarr", "--masks", tmp_path / "masks", "--figures", tmp_path / "out"
    )
    assert result.code == 0, result.err
    runs = open_store(tmp_path / "s.zarr").read("runs/miou")
    assert len(np.unique(runs)) > 6
    header = next(line for line in result.err.splitlines() if "before miou" in line)
    assert [part.strip() for part in header.split("  ") if part.strip()] == [
        *("model", "layer", "before miou", "before shuffled", "after miou", "after shuffled"),
        *("control miou", "control shuffled", "bound"),
    ]
    shown = [line.split() for line in result.err.splitlines() if line.startswith(("clip ", "mae "))]
    assert [[row[i] for i in (0, 1, 2, 4, 6)] for row in shown] == [
        [model, str(layer), *(f"{runs[run, m, layer]:.3f}" for run in range(3))]
        for m, model in enumerate(("clip", "mae"))
        for layer in range(2)
    ]
    wide = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    found = [[float(row[f"{name} miou"]) for name in ("before", "after", "control")] for row in wide]
    np.testing.assert_allclose(found, runs.transpose(1, 2, 0).reshape(4, 3), rtol=1e-6)
    # the control is named where it stands, and the others are not called one
    assert "CONTROL, not the real responses: shuffled pairs (run control)" in result.err
    long = list(csv.DictReader((tmp_path / "out" / "runs.csv").read_text().splitlines()))
    assert {(row["run"], row["control"]) for row in long} == {
        *(("before", ""), ("after", "")),
        ("control", "shuffled pairs"),
    }
    assert open_store(tmp_path / "s.zarr").record["controls"] == []
    assert open_store(tmp_path / "s.zarr").record["run_controls"]["control"] == ["shuffled pairs"]


def test_the_oracle_takes_ten_eigenvectors_and_clusters_take_all(tmp_path: Path) -> None:
    truth = halves(10)
    for index, mask in enumerate(truth):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", mask)
    # what tells the classes apart stands behind the tenth
    noise = np.random.default_rng(2).standard_normal((1, 10, 17, 10)) * 0.01
    values = {"clip": np.concatenate([noise, perfect_rows(truth)[None]], axis=3)}
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", values, grid=(4, 4))
    few = make_node_store(tmp_path / "few.zarr", "eigs", {"clip": values["clip"][..., 10:]}, grid=(4, 4))
    args = ["--masks", tmp_path / "masks"]
    usual = aligncut("segment", eigs, "-o", tmp_path / "usual.zarr", *args)
    ten = done("segment", eigs, "-o", tmp_path / "ten.zarr", *args, "--n-eig", 10)
    all12 = done("segment", eigs, "-o", tmp_path / "all.zarr", *args, "--n-eig", 12)
    assert open_store(usual.path).read("scores/miou") == open_store(ten).read("scores/miou")
    assert open_store(usual.path).read("scores/miou")[0, 0] < 0.6
    assert open_store(all12).read("scores/miou")[0, 0] == 1
    assert open_store(usual.path).record["summary"]["n_eig"] == 10
    assert "oracle centres of 10 eigenvectors" in usual.err
    assert "the paper scores with" not in usual.err
    fewer = aligncut("segment", few, "-o", tmp_path / "fewer.zarr", *args)
    assert open_store(fewer.path).read("scores/miou")[0, 0] == 1
    assert "scored with all 2 eigenvectors there are; the paper scores with 10" in fewer.err
    refused = aligncut("segment", few, "-o", tmp_path / "refused.zarr", *args, "--n-eig", 10)
    assert refused.code == 3
    assert "the eigs store has 2 eigenvectors" in refused.err
    cut = done("segment", eigs, "-o", tmp_path / "cut.zarr", *args, "--clusters", 2)
    assert open_store(cut).record["summary"]["n_eig"] == 12


def test_a_score_says_how_many_classes_it_is_a_mean_over(tmp_path: Path) -> None:
    truth = halves(4)
    for index, mask in enumerate(truth):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", mask)
    (tmp_path / "masks" / "classes.txt").write_text("background\ncat\ndog\nunicorn\n")
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", {"clip": perfect_rows(truth)[None]}, grid=(4, 4))
    few = aligncut("segment", eigs, "-o", tmp_path / "s.zarr", "--masks", tmp_path / "masks")
    assert "mIoU over the 2 of 4 classes that occur" in few.err
    (tmp_path / "masks" / "classes.txt").write_text("background\ncat\n")
    every = aligncut("segment", eigs, "-o", tmp_path / "t.zarr", "--masks", tmp_path / "masks")
    assert "mIoU over 2 classes, oracle" in every.err


def test_clusters_are_the_planted_segments_and_coarser_levels_nest(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    planted = rng.integers(0, 4, (30, 17))
    rows = np.eye(4)[planted] * [1, 2, 1, 3] + 0.01 * rng.standard_normal((30, 17, 4))
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", {"clip": rows[None]}, grid=(4, 4))
    for method in ("rotation", "kmeans"):
        output = tmp_path / f"{method}.zarr"
        done("segment", eigs, "-o", output, "--clusters", 2, "--clusters", 4, "--method", method)
        store = open_store(output)
        labels, coarse = store.read("clip/labels")[0], store.read("clip/labels_2")[0]
        np.testing.assert_array_equal(labels[:, 0], -1)
        pairs = {(int(a), int(b)) for a, b in zip(planted[:, 1:].ravel(), labels[:, 1:].ravel(), strict=True)}
        assert len(pairs) == 4
        nested = {(int(a), int(b)) for a, b in zip(labels[:, 1:].ravel(), coarse[:, 1:].ravel(), strict=True)}
        assert len(nested) == 4
        assert {b for _, b in nested} == {0, 1}
        group = store.read("levels/group")[0]
        np.testing.assert_array_equal(group[1][labels[:, 1:]], coarse[:, 1:])
        assert not store.has("scores")


def test_clusters_are_matched_to_classes_where_masks_are_given(tmp_path: Path) -> None:
    truth = halves(10)
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", {"clip": perfect_rows(truth)[None]}, grid=(4, 4))
    for index, mask in enumerate(truth):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", mask)
    args = ["segment", eigs, "-o", tmp_path / "s.zarr", "--clusters", 2, "--masks", tmp_path / "masks"]
    result = aligncut(*args, "--figures", tmp_path / "out", "--pictures", 2)
    assert result.code == 0, result.err
    store = open_store(tmp_path / "s.zarr")
    assert store.read("scores/miou")[0, 0] == 1
    assert store.read("scores/shuffled")[0, 0] < 0.8
    picture = Image.open(tmp_path / "out" / "labels" / "clip-0" / "image-001.png")
    assert picture.mode == "P"
    assert picture.size == (48, 48)
    shown = np.asarray(picture)
    np.testing.assert_array_equal(shown[6::12, 6::12].ravel(), store.read("clip/labels")[0, 1, 1:])
    assert "up to date" in aligncut(*args).err


def test_masks_that_change_are_another_input_and_masks_that_move_are_not(
    tmp_path: Path, eigs: Path, masks: Path
) -> None:
    import shutil

    moved = tmp_path / "elsewhere"
    shutil.copytree(masks, moved)
    args = ["segment", eigs, "-o", tmp_path / "s.zarr", "--resolution", "tokens"]
    done(*args, "--masks", masks)
    assert "up to date" in aligncut(*args, "--masks", moved).err
    write_mask(moved / "photo-003.png", np.zeros((48, 51), int))
    result = aligncut(*args, "--masks", moved)
    assert result.code == 4
    assert "inputs" in result.err


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, segments: Path, eigs: Path, masks: Path
) -> None:
    args = ["segment", eigs, "-o", tmp_path / "s.zarr", "--masks", masks]
    killed = 0
    for after in (40, 60, 90):
        process = spawn(args, kill_after=after)
        process.communicate()
        killed += process.returncode == -9
    assert killed
    done(*args)
    assert array_bytes(tmp_path / "s.zarr") == array_bytes(segments)


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        ([], 2, "--clusters"),
        (["--clusters", 9], 2, "Cannot make 9 clusters of 5"),
        (["--clusters", 2, "--n-eig", 99], 3, "has 5 eigenvectors"),
        (["--masks", "nowhere"], 3, "No masks at"),
    ],
)
def test_what_cannot_be_segmented_is_refused(tmp_path: Path, eigs: Path, more: list, code: int, words: str) -> None:
    result = aligncut("segment", eigs, "-o", tmp_path / "s.zarr", *more)
    assert result.code == code, result.err
    assert words in result.err


def test_faulty_masks_are_named(tmp_path: Path, eigs: Path, masks: Path) -> None:
    import shutil

    for name, break_it, words in (
        ("missing", lambda folder: (folder / "photo-004.png").unlink(), "photo-004"),
        ("size", lambda folder: write_mask(folder / "photo-004.png", np.zeros((9, 9), int)), "9 x 9"),
        ("class", lambda folder: write_mask(folder / "photo-004.png", np.full((48, 52), 7)), "class index 7"),
    ):
        folder = tmp_path / name
        shutil.copytree(masks, folder)
        break_it(folder)
        result = aligncut("segment", eigs, "-o", tmp_path / f"{name}.zarr", "--masks", folder)
        assert result.code == 3, (name, result.err)
        assert words in result.err


def test_a_control_is_said_in_table_csv_and_record(tmp_path: Path) -> None:
    truth = halves(4)
    for index, mask in enumerate(truth):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", mask)
    values = {"clip": perfect_rows(truth)[None]}
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", values, grid=(4, 4), controls=["shuffled pairs"])
    result = aligncut(
        "segment", eigs, "-o", tmp_path / "s.zarr", "--masks", tmp_path / "masks", "--figures", tmp_path / "out"
    )
    assert "CONTROL, not the real responses: shuffled pairs" in result.err
    assert open_store(tmp_path / "s.zarr").record["controls"] == ["shuffled pairs"]
    assert "shuffled pairs" in (tmp_path / "out" / "scores.csv").read_text()


def test_voc_and_imagenet_segmentation_are_read_as_the_originals_would_be(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    photos = make_photos(tmp_path / "photos", 4)
    rng = np.random.default_rng(2)
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text("".join(f"photo-{i:03d}\n" for i in range(4)))
    with h5py.File(tmp_path / "gtsegs_ijcv.mat", "w") as file:
        references = {"img": [], "gt": [], "id": []}
        for index in range(4):
            mask = rng.integers(0, 2, (48, 48 + index), dtype=np.uint8)
            mask[0, 0] = 255
            write_mask(voc / "SegmentationClass" / f"photo-{index:03d}.png", np.where(mask == 255, -1, mask))
            pixels = np.asarray(Image.open(photos / f"photo-{index:03d}.png"))
            inner = file.create_dataset(f"#refs#/gt{index}", data=(mask % 255).T)
            cell = file.create_dataset(f"#refs#/cell{index}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = inner.ref
            references["gt"].append(cell.ref)
            references["img"].append(file.create_dataset(f"#refs#/img{index}", data=pixels.transpose(2, 1, 0)).ref)
            code = np.array([ord(letter) for letter in f"photo-{index:03d}"], np.uint16)[:, None]
            references["id"].append(file.create_dataset(f"#refs#/id{index}", data=code).ref)
        for name, cells in references.items():
            array = file.create_dataset(f"value/{name}", (len(cells), 1), h5py.ref_dtype)
            for index, cell in enumerate(cells):
                array[index, 0] = cell
    model = ["--model", "tiny=vit_tiny_patch16_224@64", "--weights", "random", "--layers", "1"]
    inside = done("extract", tmp_path / "gtsegs_ijcv.mat", "-o", tmp_path / "i.zarr", *model, "--workers", 1)
    outside = done("extract", photos, "-o", tmp_path / "f.zarr", *model, "--workers", 0)
    assert list(open_store(inside).read("images/id")) == list(open_store(outside).read("images/id"))
    np.testing.assert_array_equal(open_store(inside).read("tiny/tokens"), open_store(outside).read("tiny/tokens"))
    eigs = done("eigs", inside, "-o", tmp_path / "e.zarr", "--n-eig", 3)
    found = done("segment", eigs, "-o", tmp_path / "a.zarr", "--masks", tmp_path / "gtsegs_ijcv.mat",
                 "--figures", tmp_path / "out")  # fmt: skip
    assert open_store(found).group["scores"].attrs["classes"] == ["background", "foreground"]
    assert len(list((tmp_path / "out" / "overlays").glob("*.png"))) == 4
    voc_found = done("segment", eigs, "-o", tmp_path / "b.zarr", "--masks", tmp_path / "VOCdevkit")
    assert len(open_store(voc_found).group["scores"].attrs["classes"]) == 21
    assert open_store(voc_found).record["extra"]["masks_format"] == "voc"
    assert np.isfinite(open_store(voc_found).read("scores/miou")).all()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aligncut_cli.stages.segment.passes import Layout, Place

    held: list[int] = []
    read = Layout.load

    def watched(self: Layout, place: Place) -> object:
        rows = read(self, place)
        held.append(sum(values.shape[1] for values in rows.values()))
        return rows

    monkeypatch.setattr(Layout, "load", watched)
    truth = halves(40)
    for index, mask in enumerate(truth):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", mask)
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", {"clip": perfect_rows(truth)[None]}, grid=(4, 4))
    done("segment", eigs, "-o", tmp_path / "s.zarr", "--masks", tmp_path / "masks", "--resolution", "tokens")
    assert max(held) == 4
    assert sum(held) == 3 * 40


def test_photos_that_have_moved_are_found_for_the_pictures(tmp_path: Path) -> None:
    truth = halves(2)
    values = {"clip": perfect_rows(truth)[None]}
    eigs = make_node_store(tmp_path / "e.zarr", "eigs", values, grid=(4, 4), photos=tmp_path / "gone")
    for index, mask in enumerate(truth):
        write_mask(tmp_path / "masks" / f"image-{index:03d}.png", mask)
        write_mask(tmp_path / "moved" / f"image-{index:03d}.png", np.full((48, 48), 40 + 90 * index))
    args = ["segment", eigs, "-o", tmp_path / "s.zarr", "--masks", tmp_path / "masks"]
    lost = aligncut(*args, "--figures", tmp_path / "lost")
    assert "2 photos were not found where they were; --photos DIR" in lost.err
    found = aligncut(*args, "--figures", tmp_path / "found", "--photos", tmp_path / "moved")
    assert "up to date" in found.err
    assert "not found" not in found.err
    for index in range(2):
        photo = np.asarray(Image.open(tmp_path / "found" / "overlays" / f"image-{index:03d}.png"))
        assert (photo == 40 + 90 * index).all(axis=2).sum() >= 112 * 112
    assert open_store(tmp_path / "lost").record["extra"] == {}
    assert open_store(tmp_path / "found").record["extra"] == {"photos": str(tmp_path / "moved")}
    again = aligncut(*args, "--figures", tmp_path / "lost", "--photos", tmp_path / "moved")
    assert again.code == 4
    assert "photos: None -> " in again.err


def test_every_score_has_a_meaning() -> None:
    from aligncut_cli.stages.segment.oracle import Oracle
    from aligncut_cli.store.kinds.segments import MEANINGS

    assert list(Oracle.scores) == [*MEANINGS, "iou", "each_image"]
