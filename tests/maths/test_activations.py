from __future__ import annotations

import math

import numpy as np
import pytest

from aligncut_cli.maths.activations import FigureGroundActivation, average_over_roi, compare_to_reference
from aligncut_cli.maths.grid import weigh_tokens_by_class

GRID = (2, 3)


def made(rng, *, n_images=12):
    masks = []
    for _ in range(n_images):
        mask = rng.integers(-1, 3, (4, 6)).astype(np.int16)
        masks.append(mask)
    tokens = rng.normal(size=(n_images, 2, 6, 5)).astype(np.float16) + np.arange(5, dtype=np.float16)
    weight, beta = rng.normal(size=(2, 5, 4)), rng.normal(size=(4, 7))
    rois = np.array([[1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0]], bool)
    return tokens, masks, weight, beta, rois


def run(tokens, masks, readout):
    total = FigureGroundActivation(readout)
    for image, mask in zip(tokens, masks, strict=True):
        total.add(image, weigh_tokens_by_class(mask, GRID, n_classes=3))
    return total.finish()


def test_means_equal_a_loop_over_pixels_and_voxels(rng):
    tokens, masks, weight, beta, rois = made(rng)
    result = run(tokens, masks, weight @ average_over_roi(beta, rois))
    for slot in range(2):
        sums, pixels = np.zeros((2, 7)), [0, 0]
        for image, mask in zip(tokens, masks, strict=True):
            activation = image[slot].astype(float) @ weight[slot] @ beta  # (token, voxel)
            for y in range(4):
                for x in range(6):
                    if mask[y, x] >= 0:
                        side = 0 if mask[y, x] > 0 else 1
                        sums[side] += activation[(y // 2) * 3 + x // 2]
                        pixels[side] += 1
        for side in range(2):
            voxels = sums[side] / pixels[side]
            for roi in range(2):
                wanted = voxels[rois[roi]].mean()
                assert result.mean[slot, side, roi] == pytest.approx(wanted)
            np.testing.assert_allclose(result.features[slot, side] @ weight[slot] @ beta, voxels)
        np.testing.assert_allclose(result.mean[slot, 2], result.mean[slot, 0] - result.mean[slot, 1])
    assert result.weights.tolist() == pytest.approx([p / 4 for p in pixels])  # four pixels to a token


def test_the_error_is_the_spread_of_the_mean_over_new_sets_of_images():
    """Draw many sets of images; their means scatter as the error of a single set says."""
    rng = np.random.default_rng(3)
    readout = np.eye(5)[None]
    means, errors = [], []
    for _ in range(300):
        total = FigureGroundActivation(readout)
        for _ in range(25):
            own = rng.normal(size=5)  # what all tokens of an image share
            tokens = (100 + own + rng.normal(size=(1, 6, 5))).astype(np.float32)
            tokens[:, :3] += 2
            mask = np.repeat(np.arange(6) < rng.integers(1, 6), 4).reshape(6, 4).astype(np.int16)
            total.add(tokens, weigh_tokens_by_class(mask, (6, 1), n_classes=2))
        result = total.finish()
        means.append(result.mean[0])
        errors.append(result.error[0])
    ratio = np.mean(errors, axis=0) / np.std(means, axis=0)
    assert (np.abs(ratio.mean(axis=1) - 1) < 0.1).all()
    # What an image's tokens share cancels in the paired difference.
    assert np.mean(errors, axis=0)[2].mean() < 0.8 * math.hypot(*np.mean(errors, axis=0)[:2].mean(axis=1))


def test_ignored_pixels_and_images_without_labels_never_count(rng):
    tokens, masks, weight, beta, rois = made(rng)
    readout = weight @ average_over_roi(beta, rois)
    masks = [np.where(np.arange(6) < 2, -1, mask).astype(np.int16) for mask in masks]  # the first token column
    wanted = run(tokens, masks, readout)
    spoilt = tokens.copy()
    spoilt[:, :, [0, 3]] = 999
    result = run([*spoilt, spoilt[0]], [*masks, np.full((4, 6), -1, np.int16)], readout)
    np.testing.assert_allclose(result.mean, wanted.mean)
    np.testing.assert_allclose(result.error, wanted.error)
    assert result.n_images == wanted.n_images == 12


def test_without_any_foreground_its_mean_is_nan(rng):
    tokens, _, weight, beta, rois = made(rng)
    result = run(tokens, [np.zeros((4, 6), np.int16)] * 12, weight @ average_over_roi(beta, rois))
    assert np.isnan(result.mean[:, [0, 2]]).all()
    assert np.isfinite(result.mean[:, 1]).all()
    assert np.isfinite(result.error[:, 1]).all()
    nothing = FigureGroundActivation(weight @ average_over_roi(beta, rois)).finish()
    assert np.isnan(nothing.mean).all()


def test_an_roi_without_voxels_is_nan(rng):
    values = rng.normal(size=(3, 7))
    rois = np.array([[0] * 7, [1] * 7], bool)
    assert np.isnan(average_over_roi(values, rois)[:, 0]).all()
    np.testing.assert_allclose(average_over_roi(values, rois)[:, 1], values.mean(1))


def test_similarity_to_a_token_is_the_cosine_of_features_or_of_their_activations(rng):
    tokens, beta = rng.normal(size=(2, 4, 5)).astype(np.float32), rng.normal(size=(5, 9))
    tokens[1, 3] = 0
    reference = tokens[0, 2]
    plain = compare_to_reference(tokens, reference, readout_gram=None)
    mapped = compare_to_reference(tokens, reference, readout_gram=beta @ beta.T)
    for at in np.ndindex(2, 4):
        for got, one, other in (
            (plain[at], tokens[at], reference),
            (mapped[at], tokens[at] @ beta, reference @ beta),
        ):
            length = np.linalg.norm(one) * np.linalg.norm(other)
            assert got == pytest.approx(one @ other / length if length else 0.0, abs=1e-6)
    assert plain[0, 2] == mapped[0, 2] == pytest.approx(1)


@pytest.fixture
def rng():
    return np.random.default_rng(7)
