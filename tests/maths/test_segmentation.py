from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.grid import (
    build_bilinear_matrix,
    count_classes_per_token,
    locate_pixels,
    resize_mask,
    round_mask_to_grid,
    spread_tokens,
    weigh_tokens_by_class,
)
from aligncut_cli.maths.iou import (
    compute_iou,
    count_confusion,
    expect_iou_by_chance,
    mean_over_classes,
    score_confusion,
)
from aligncut_cli.maths.segmentation import (
    ClassCentres,
    OracleScore,
    compare_to_centres,
    count_grid_rounding,
    label_pixels,
    pick_other_images,
)

THRESHOLDS = np.linspace(0, 1, 10)


# ---- the slow twins: plain Python over pixels, nothing imported from the package ----


def naive_token_of(y, x, size, grid):
    """The cell that holds the pixel's centre, by comparing with every cell's edges."""
    height, width = size
    row = next(r for r in range(grid[0]) if (y + 0.5) < (r + 1) * height / grid[0])
    column = next(c for c in range(grid[1]) if (x + 0.5) < (c + 1) * width / grid[1])
    return row * grid[1] + column


def naive_centres(eigenvectors, masks, grid, n_classes):
    """Mean eigenvector over pixels, each pixel worth 1 / pixels of its cell."""
    n_eig = len(eigenvectors[0][0])
    sums = [[0.0] * n_eig for _ in range(n_classes)]
    weights = [0.0] * n_classes
    for rows, mask in zip(eigenvectors, masks, strict=True):
        size = mask.shape
        tokens = {(y, x): naive_token_of(y, x, size, grid) for y in range(size[0]) for x in range(size[1])}
        cell = [list(tokens.values()).count(t) for t in range(grid[0] * grid[1])]
        for (y, x), token in tokens.items():
            label = int(mask[y, x])
            if label < 0:
                continue
            weights[label] += 1 / cell[token]
            for e in range(n_eig):
                sums[label][e] += rows[token][e] / cell[token]
    return [[s / w for s in row] if w else None for row, w in zip(sums, weights, strict=True)]


def naive_cosine(a, b):
    length = math.sqrt(sum(v * v for v in a)) * math.sqrt(sum(v * v for v in b))
    return sum(p * q for p, q in zip(a, b, strict=True)) / length if length else 0.0


def naive_bilinear(values, grid, y, x, size):
    """Interpolate between the four nearest token centres; outside them the border is repeated."""

    def along(pixel, n_pixels, n_tokens):
        position = (pixel + 0.5) * n_tokens / n_pixels - 0.5
        low = math.floor(position)
        share = position - low
        return (min(max(low, 0), n_tokens - 1), 1 - share), (min(max(low + 1, 0), n_tokens - 1), share)

    return sum(
        wr * wc * values[r * grid[1] + c]
        for r, wr in along(y, size[0], grid[0])
        for c, wc in along(x, size[1], grid[1])
    )


def naive_oracle(eigenvectors, masks, grid, n_classes, thresholds):
    """mIoU over all pixels, IoU per class and mean per-image mIoU for every threshold."""
    centres = naive_centres(eigenvectors, masks, grid, n_classes)
    known = [c for c in range(n_classes) if centres[c] is not None]
    similarities = [
        {c: [naive_cosine(token, centres[c]) for token in rows.tolist()] for c in known} for rows in eigenvectors
    ]
    out = []
    for threshold in thresholds:
        whole = [[0, 0, 0] for _ in range(n_classes)]  # right, predicted, true
        per_image = []
        for similarity, mask in zip(similarities, masks, strict=True):
            own = [[0, 0, 0] for _ in range(n_classes)]
            for y in range(mask.shape[0]):
                for x in range(mask.shape[1]):
                    true = int(mask[y, x])
                    if true < 0:
                        continue
                    here = {c: naive_bilinear(similarity[c], grid, y, x, mask.shape) for c in known}
                    label = max(known, key=lambda c, here=here: here[c])
                    if here[label] < threshold:
                        label = 0
                    own[label][1] += 1
                    own[true][2] += 1
                    own[true][0] += label == true
            for c in range(n_classes):
                for k in range(3):
                    whole[c][k] += own[c][k]
            per_image.append(naive_miou(own)[0])
        miou, iou = naive_miou(whole)
        out.append((miou, iou, sum(per_image) / len(per_image)))
    return out


def naive_miou(counts):
    iou = [right / (said + true - right) if said + true - right else None for right, said, true in counts]
    present = [value for value in iou if value is not None]
    return sum(present) / len(present), iou


def run_oracle(eigenvectors, masks, grid, n_classes, *, resolution="pixels", thresholds=THRESHOLDS, centre_masks=None):
    """Both passes of the fast code; eigenvectors: one (token, eig) or (slot, token, eig) per image."""
    stacked = [rows if rows.ndim == 3 else rows[None] for rows in eigenvectors]
    centres = ClassCentres(stacked[0].shape[0], n_classes, stacked[0].shape[-1])
    for rows, mask in zip(stacked, centre_masks or masks, strict=True):
        centres.add(rows, weigh_tokens_by_class(mask, grid, n_classes=n_classes))
    score = OracleScore(centres.finish(), thresholds=thresholds, grid=grid, resolution=resolution)
    for rows, mask in zip(stacked, masks, strict=True):
        score.add(rows, mask)
    return score.finish()


def made_images(rng, *, n_images=3, grid=(3, 4), n_classes=4, n_eig=5, sizes=((11, 13), (7, 9), (2, 3)), ignored=0.1):
    masks = []
    for i in range(n_images):
        blocks = rng.integers(0, n_classes, (4, 5))
        size = sizes[i % len(sizes)]
        mask = blocks[np.arange(size[0])[:, None] * 4 // size[0], np.arange(size[1]) * 5 // size[1]].astype(np.int16)
        mask[rng.random(size) < ignored] = -1
        masks.append(mask)
    return [rng.normal(size=(grid[0] * grid[1], n_eig)).astype(np.float32) for _ in range(n_images)], masks


# ---- tokens and pixels ----


@pytest.mark.parametrize(
    ("size", "grid"), [((11, 13), (3, 4)), ((2, 3), (4, 4)), ((28, 28), (14, 14)), ((1, 1), (1, 1))]
)
def test_pixels_fall_into_the_cell_that_holds_their_centre(size, grid):
    rows, columns = locate_pixels(size[0], grid[0]), locate_pixels(size[1], grid[1])
    for y in range(size[0]):
        for x in range(size[1]):
            assert rows[y] * grid[1] + columns[x] == naive_token_of(y, x, size, grid)


def test_classes_per_token_are_counted_like_a_loop_over_pixels(rng):
    _, (mask, *_) = made_images(rng)
    counts, cell = count_classes_per_token(mask, (3, 4), n_classes=4)
    wanted = np.zeros((12, 5), int)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            wanted[naive_token_of(y, x, mask.shape, (3, 4)), mask[y, x]] += 1
    assert (counts == wanted[:, :4]).all()
    assert (cell == wanted.sum(1)).all()
    weights = weigh_tokens_by_class(mask, (3, 4), n_classes=4)
    assert weights.sum() == pytest.approx(((mask >= 0) / cell[spread_index(mask.shape, (3, 4))]).sum())


def spread_index(size, grid):
    return spread_tokens(np.arange(grid[0] * grid[1]), grid, size)


def test_rounding_takes_the_majority_of_labelled_pixels():
    mask = np.array([[1, 1, 0, 0], [-1, 0, 2, 2], [-1, -1, -1, 3], [-1, -1, -1, -1]], np.int16)
    assert round_mask_to_grid(mask, (2, 2), n_classes=4).tolist() == [1, 0, -1, 3]


@pytest.mark.parametrize(
    ("size", "grid"), [((11, 13), (3, 4)), ((2, 3), (4, 4)), ((30, 20), (1, 2)), ((375, 50), (14, 14))]
)
def test_bilinear_upsampling_is_torchs(rng, size, grid):
    values = rng.random((2, *grid)).astype(np.float32)
    wanted = interpolate(torch.from_numpy(values)[None], size=size, mode="bilinear", align_corners=False)[0].numpy()
    down, across = build_bilinear_matrix(grid[0], size[0]), build_bilinear_matrix(grid[1], size[1])
    np.testing.assert_allclose(down @ values @ across.T, wanted, atol=1e-5)


@pytest.mark.parametrize("n_classes", [1, 3, 300])
def test_labels_in_bands_are_the_argmax_of_the_whole(rng, n_classes, monkeypatch):
    similarity = rng.random((n_classes, 12)).astype(np.float32)
    similarity[n_classes // 2] = similarity[0]  # a tie goes to the lower class
    up = interpolate(
        torch.from_numpy(similarity.reshape(1, n_classes, 3, 4)), size=(37, 41), mode="bilinear", align_corners=False
    )[0].numpy()
    for band in (1, 500 * n_classes, 10**9):
        monkeypatch.setattr("aligncut_cli.maths.segmentation.BAND_VALUES", band)
        best, label = label_pixels(similarity, (3, 4), (37, 41))
        np.testing.assert_allclose(best, up.max(0), atol=1e-6)
        np.testing.assert_allclose(np.take_along_axis(up, label[None], 0)[0], up.max(0), atol=1e-6)
        if n_classes == 3:
            assert not (label == 1).any()


# ---- scores ----


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_plain_python_over_pixels(seed):
    rng = np.random.default_rng(seed)
    eigenvectors, masks = made_images(rng)
    for mask in masks:
        mask[mask == 2] = 1  # class 2 is nowhere
    wanted = naive_oracle(eigenvectors, masks, (3, 4), 4, THRESHOLDS)
    result = run_oracle(eigenvectors, masks, (3, 4), 4)
    for j, (miou, iou, image_miou) in enumerate(wanted):
        assert result.miou[0, j] == pytest.approx(miou, abs=1e-12)
        assert result.image_miou[0, j] == pytest.approx(image_miou, abs=1e-12)
        assert [None if math.isnan(v) else pytest.approx(v, abs=1e-12) for v in result.iou[0, j]] == iou
    assert result.best[0] == max(range(10), key=lambda j: wanted[j][0])
    assert result.best_miou[0] == max(score[0] for score in wanted)


def test_tokens_are_scored_like_an_image_of_tokens(rng):
    eigenvectors, masks = made_images(rng)
    rounded = [round_mask_to_grid(mask, (3, 4), n_classes=4).reshape(3, 4) for mask in masks]
    wanted = run_oracle(eigenvectors, rounded, (3, 4), 4, centre_masks=masks)
    result = run_oracle(eigenvectors, masks, (3, 4), 4, resolution="tokens")
    assert (result.miou == wanted.miou).all()


def test_slots_are_scored_each_for_itself(rng):
    first, masks = made_images(rng)
    second, _ = made_images(rng)
    both = run_oracle([np.stack(pair) for pair in zip(first, second, strict=True)], masks, (3, 4), 4)
    for slot, alone in enumerate((first, second)):
        wanted = run_oracle(alone, masks, (3, 4), 4)
        assert both.miou[slot].tolist() == wanted.miou[0].tolist()
        assert both.image_miou[slot].tolist() == wanted.image_miou[0].tolist()
        assert both.iou[slot].tolist() == wanted.iou[0].tolist()


def test_centres_are_the_mean_over_pixels(rng):
    eigenvectors, masks = made_images(rng)
    for mask in masks:
        mask[mask == 2] = 1
    centres = run_centres(eigenvectors, masks, (3, 4), 4)[0]
    for centre, wanted in zip(centres, naive_centres(eigenvectors, masks, (3, 4), 4), strict=True):
        np.testing.assert_allclose(centre, [np.nan] * 5 if wanted is None else wanted, rtol=1e-5)


def stripes(n_classes, *, size=(32, 32), grid=(8, 8)):
    """Vertical stripes whose edges are token edges, and eigenvectors that say the class outright."""
    mask = np.broadcast_to(np.arange(size[1]) * n_classes // size[1], size).astype(np.int16)
    label = round_mask_to_grid(mask, grid, n_classes=n_classes)
    return np.eye(n_classes, dtype=np.float32)[label], mask


@pytest.mark.parametrize("resolution", ["pixels", "tokens"])
def test_a_perfect_segmentation_scores_1(resolution):
    rows, mask = stripes(4)
    result = run_oracle([rows, rows], [mask, mask], (8, 8), 4, resolution=resolution)
    assert result.best_miou.tolist() == [1.0]
    assert result.best_image_miou.tolist() == [1.0]
    assert result.best_iou.tolist() == [[1.0] * 4]
    assert result.best_chance[0] < 0.3


def test_everything_under_the_threshold_is_background():
    rows, mask = stripes(4)
    result = run_oracle([rows], [mask], (8, 8), 4, thresholds=np.array([0.0, 1.1]))
    assert result.iou[0, 1].tolist() == [0.25, 0.0, 0.0, 0.0]
    assert result.miou[0, 1] == 0.25 / 4
    assert result.chance[0, 1] == pytest.approx(0.25 / 4)


def test_masks_without_relation_to_the_features_score_chance(rng):
    """Labels that know nothing of the mask score what expect_iou_by_chance says, at every threshold."""
    grid, n_classes = (8, 8), 3
    frequencies = np.array([0.6, 0.3, 0.1])
    masks = [rng.choice(n_classes, (16, 16), p=frequencies).astype(np.int16) for _ in range(60)]
    eigenvectors = [rng.normal(size=(64, 6)).astype(np.float32) for _ in masks]
    result = run_oracle(eigenvectors, masks, grid, n_classes)
    np.testing.assert_allclose(result.miou, result.chance, atol=0.02)
    assert result.best_miou[0] == pytest.approx(result.best_chance[0], abs=0.02)


def test_a_good_segmentation_with_shuffled_masks_scores_chance(rng):
    rows, mask = stripes(4)
    shuffled = [rng.permutation(mask.ravel()).reshape(mask.shape) for _ in range(40)]
    score = OracleScore(run_centres([rows], [mask], (8, 8), 4), thresholds=THRESHOLDS, grid=(8, 8), resolution="pixels")
    for wrong in shuffled:
        score.add(rows[None], wrong)
    result = score.finish()
    np.testing.assert_allclose(result.miou, result.chance, atol=0.01)
    assert result.best_chance[0] == pytest.approx(1 / 7, abs=0.01)  # p / (2 - p) with p = 1/4


def run_centres(eigenvectors, masks, grid, n_classes):
    centres = ClassCentres(1, n_classes, eigenvectors[0].shape[-1])
    for rows, mask in zip(eigenvectors, masks, strict=True):
        centres.add(rows[None], weigh_tokens_by_class(mask, grid, n_classes=n_classes))
    return centres.finish()


def test_ignored_pixels_never_count(rng):
    """Whatever is under ignored pixels, and whatever would be said of them, changes nothing."""
    rows, mask = stripes(4)
    wrong = mask.copy()
    hole = np.zeros(mask.shape, bool)
    hole[8:20, 3:30] = True
    mask_with_hole = np.where(hole, -1, mask).astype(np.int16)
    result = run_oracle([rows], [mask_with_hole], (8, 8), 4)
    assert result.best_miou.tolist() == [1.0]
    wrong[hole] = 3 - wrong[hole]
    assert run_oracle([rows], [wrong], (8, 8), 4).best_miou[0] < 0.9

    spoilt = rows.copy()
    inside = (round_mask_to_grid(mask_with_hole, (8, 8), n_classes=4) < 0).nonzero()[0]
    assert len(inside)
    spoilt[inside] = rng.normal(size=(len(inside), 4))
    fine = run_oracle([rows], [mask_with_hole], (8, 8), 4, resolution="tokens")
    assert (run_oracle([spoilt], [mask_with_hole], (8, 8), 4, resolution="tokens").miou == fine.miou).all()


def test_an_image_that_is_ignored_altogether_changes_nothing(rng):
    eigenvectors, masks = made_images(rng)
    nothing = np.full((5, 5), -1, np.int16)
    without = run_oracle(eigenvectors, masks, (3, 4), 4)
    result = run_oracle([*eigenvectors, eigenvectors[0] * 7], [*masks, nothing], (3, 4), 4)
    assert (result.miou == without.miou).all()
    assert (result.image_miou == without.image_miou).all()
    with pytest.raises(BadInput, match="no labelled pixel"):
        run_oracle(eigenvectors[:1], [nothing], (3, 4), 4)


def test_an_absent_class_does_not_change_the_mean(rng):
    eigenvectors, masks = made_images(rng, n_classes=4)
    few = run_oracle(eigenvectors, masks, (3, 4), 4)
    more = run_oracle(eigenvectors, masks, (3, 4), 9)
    assert (more.miou == few.miou).all()
    assert (more.image_miou == few.image_miou).all()
    np.testing.assert_allclose(more.chance, few.chance, rtol=1e-12)
    assert np.isnan(more.iou[..., 4:]).all()


def test_a_row_of_zeros_is_like_nothing(rng):
    similarity = compare_to_centres(np.zeros((1, 2, 3), np.float32), rng.normal(size=(1, 4, 3)))
    assert similarity.tolist() == [[[0.0, 0.0]] * 4]


def test_the_ceiling_is_the_score_of_rounded_masks(rng):
    _, masks = made_images(rng)
    total = np.zeros((4, 4), int)
    counts = [[0, 0, 0] for _ in range(4)]
    for mask in masks:
        total += count_grid_rounding(mask, (3, 4), n_classes=4, resolution="pixels")
        label = round_mask_to_grid(mask, (3, 4), n_classes=4)
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                if mask[y, x] >= 0:
                    said = label[naive_token_of(y, x, mask.shape, (3, 4))]
                    counts[said][1] += 1
                    counts[mask[y, x]][2] += 1
                    counts[said][0] += said == mask[y, x]
    miou, iou = score_confusion(total)
    assert (miou, iou.tolist()) == (pytest.approx(naive_miou(counts)[0]), pytest.approx(naive_miou(counts)[1]))
    assert 0 < miou < 1
    tokens = sum(count_grid_rounding(mask, (3, 4), n_classes=4, resolution="tokens") for mask in masks)
    assert score_confusion(tokens)[0] == 1


def test_shuffled_masks_are_always_another_images(rng):
    for n_images in (2, 3, 50):
        other = pick_other_images(n_images, seed=1)
        assert sorted(other.tolist()) == list(range(n_images))
        assert (other != np.arange(n_images)).all()
        assert (other == pick_other_images(n_images, seed=1)).all()
    assert (pick_other_images(50, seed=1) != pick_other_images(50, seed=2)).any()


def test_a_mask_is_stretched_without_new_values():
    mask = np.array([[0, 3], [-1, 5]], np.int16)
    assert resize_mask(mask, (4, 2)).tolist() == [[0, 3], [0, 3], [-1, 5], [-1, 5]]
    assert resize_mask(resize_mask(mask, (7, 9)), (2, 2)).tolist() == mask.tolist()


def test_chance_is_what_random_labels_score(rng):
    truth = rng.choice(3, 40_000, p=[0.7, 0.2, 0.1])
    said = rng.choice(3, 40_000, p=[0.5, 0.1, 0.4])
    confusion = count_confusion(said, truth, n_predicted=3, n_true=3)[:, :-1]
    expected = expect_iou_by_chance(confusion.sum(0), confusion.sum(1))
    np.testing.assert_allclose(score_confusion(confusion)[1], expected, atol=0.01)
    p, q = 0.7, 0.5
    assert expected[0] == pytest.approx(p * q / (p + q - p * q), abs=0.01)


def test_iou_of_nothing_is_absent():
    iou = compute_iou(np.array([2, 0, 0]), np.array([4, 0, 0]), np.array([2, 1, 0]))
    assert iou[:2].tolist() == [0.5, 0.0]
    assert math.isnan(iou[2])
    assert mean_over_classes(iou) == 0.25
    assert math.isnan(mean_over_classes(np.array([np.nan, np.nan])))


def test_confusion_keeps_pixels_without_a_label_in_the_last_column():
    counts = count_confusion(np.array([0, 1, -1, 1]), np.array([0, 0, 1, -1]), n_predicted=2, n_true=2)
    assert counts.tolist() == [[1, 1, 0], [0, 0, 1]]


@pytest.fixture
def rng():
    return np.random.default_rng(7)
