from __future__ import annotations

import math

import numpy as np
import pytest

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.concepts import (
    ConceptMoments,
    NearestTokens,
    choose_centres,
    choose_radius,
    count_as_extreme,
    find_members,
    measure_squared_distances,
    relate_magnitude_to_deviation,
    score_roi_correspondence,
)


def test_centres_start_in_the_middle_and_go_to_the_far_ends():
    coords = np.array([[0.0, 0], [0.1, 0], [10, 0], [-10, 1], [0, 8]])
    assert choose_centres(coords, n_concepts=4).tolist() == [0, 3, 2, 4]
    with pytest.raises(UsageError, match="6 concepts among 5 tokens"):
        choose_centres(coords, n_concepts=6)


def test_the_radius_is_half_the_median_distance_to_the_nearest_centre():
    centres = np.array([[0.0, 0], [2, 0], [6, 0], [16, 0]])  # nearest: 2, 2, 4, 10
    assert choose_radius(centres) == 1.5
    with pytest.raises(UsageError, match="--radius"):
        choose_radius(centres[:1])
    with pytest.raises(BadInput, match="coincide"):
        choose_radius(centres[[0, 0, 0]])


def test_members_are_the_tokens_within_the_radius(rng):
    coords, centres = rng.normal(size=(4, 10, 3)).astype(np.float32), rng.normal(size=(5, 3))
    members = find_members(coords, centres, radius=1.2)
    for image, token, concept in np.ndindex(4, 10, 5):
        assert members[image, token, concept] == (math.dist(coords[image, token], centres[concept]) <= 1.2)
    assert members.any()
    assert not members.all()


def test_moments_equal_a_list_of_all_activations(rng):
    """Against the definition: collect every member's activations of every voxel, then mean and deviation."""
    tokens = (rng.normal(size=(300, 6)) * [1, 2, 3, 0.1, 0, 5] + 40).astype(np.float16)
    members = rng.random((300, 4)) < [0.5, 0.1, 0.003, 0]
    members[:, 2] = False
    members[17, 2] = True
    readout = rng.normal(size=(6, 9)).astype(np.float32)
    moments = ConceptMoments(4, 6)
    for at in range(0, 300, 7):
        moments.add(tokens[at : at + 7], members[at : at + 7])
    mean, deviation = moments.activate(readout)
    assert moments.counts.tolist() == members.sum(0).tolist()
    for concept in range(3):
        every = tokens[members[:, concept]].astype(float) @ readout.astype(float)
        np.testing.assert_allclose(mean[concept], every.mean(0), rtol=1e-10)
        np.testing.assert_allclose(deviation[concept], every.std(0), rtol=1e-7, atol=1e-6)
    assert np.isnan(mean[3]).all()
    assert np.isnan(deviation[3]).all()


def test_a_larger_mean_with_a_smaller_deviation_has_rank_correlation_minus_1(rng):
    mean = rng.normal(size=(4, 50))
    deviation = np.exp(-np.abs(mean))
    deviation[1] = np.abs(mean[1])
    deviation[2] = 1
    mean[3] = np.nan
    rho = relate_magnitude_to_deviation(mean, deviation)
    assert rho[:2] == pytest.approx([-1, 1])
    assert np.isnan(rho[2:]).all()


def test_the_nearest_tokens_are_those_of_a_sort_over_everything(rng):
    coords, centres = rng.normal(size=(9, 5, 3)), rng.normal(size=(2, 3))
    coords[4] = coords[2]  # ties go to the earlier image
    nearest = NearestTokens(2, 4)
    for at in range(0, 9, 2):
        nearest.add(measure_squared_distances(coords[at : at + 2], centres), first_image=at)
    for concept in range(2):
        every = sorted(
            min((math.dist(coords[image, token], centres[concept]) ** 2, image, token) for token in range(5))
            for image in range(9)
        )[:4]
        assert nearest.image[concept].tolist() == [image for _, image, _ in every]
        assert nearest.token[concept].tolist() == [token for _, _, token in every]
        np.testing.assert_allclose(nearest.distance[concept], [distance for distance, _, _ in every])
    few = NearestTokens(2, 20)
    few.add(measure_squared_distances(coords, centres), first_image=0)
    assert (few.image[:, 9:] == -1).all()


def disjoint_rois(rng, *, n_rois=4, n_voxels=120, outside=30):
    label = rng.integers(0, n_rois, n_voxels)
    label[rng.permutation(n_voxels)[:outside]] = -1
    return label[None] == np.arange(n_rois)[:, None], label


def naive_share(values, label):
    """Between-group over total sum of squares, voxel by voxel."""
    inside = [(v, g) for v, g in zip(values.tolist(), label.tolist(), strict=True) if g >= 0]
    mean = sum(v for v, _ in inside) / len(inside)
    between = 0.0
    for group in {g for _, g in inside}:
        own = [v for v, g in inside if g == group]
        between += len(own) * (sum(own) / len(own) - mean) ** 2
    return between / sum((v - mean) ** 2 for v, _ in inside)


def test_correspondence_is_the_between_roi_share_of_variance(rng):
    rois, label = disjoint_rois(rng)
    activations = rng.normal(size=(3, 120)) + rng.normal(size=(3, 5))[:, label]
    activations[1] = np.nan
    result = score_roi_correspondence(activations, rois, n_permutations=10, seed=0)
    for concept in (0, 2):
        assert result.by_concept[concept] == pytest.approx(naive_share(activations[concept], label))
        inside = activations[concept][label >= 0]
        for roi in range(4):
            own = activations[concept][rois[roi]]
            n, size = len(inside), len(own)
            spread = inside.std() * math.sqrt((n - size) / (size * (n - 1)))
            assert result.z[concept, roi] == pytest.approx((own.mean() - inside.mean()) / spread)
    assert result.score == pytest.approx(np.nanmean(result.by_concept))
    assert np.isnan(result.by_concept[1])
    assert np.isnan(result.z[1]).all()
    assert np.isnan(result.p_concept[1])


def test_an_empty_roi_keeps_its_place(rng):
    rois, _ = disjoint_rois(rng)
    activations = rng.normal(size=(2, 120))
    with_empty = np.insert(rois, 1, False, axis=0)
    result = score_roi_correspondence(activations, with_empty, n_permutations=5, seed=0)
    wanted = score_roi_correspondence(activations, rois, n_permutations=5, seed=0)
    assert np.isnan(result.z[:, 1]).all()
    np.testing.assert_allclose(np.delete(result.z, 1, axis=1), wanted.z)
    assert result.score == wanted.score


def test_p_values_are_those_of_a_loop_over_permutations(rng):
    rois, label = disjoint_rois(rng, outside=0)
    activations = rng.normal(size=(2, 120)) + 0.3 * rng.normal(size=(2, 4))[:, label]
    result = score_roi_correspondence(activations, rois, n_permutations=60, seed=5)
    generator = np.random.default_rng(5)
    null = []
    for _ in range(60):
        order = generator.permutation(120)
        null.append([naive_share(row[order], label) for row in activations])
    np.testing.assert_allclose(result.null, np.mean(null, axis=1))
    observed = [naive_share(row, label) for row in activations]
    assert result.p == pytest.approx((1 + sum(np.mean(row) >= np.mean(observed) for row in null)) / 61)
    for concept in range(2):
        wanted = (1 + sum(row[concept] >= observed[concept] for row in null)) / 61
        assert result.p_concept[concept] == pytest.approx(wanted)


def test_planted_rois_are_found_and_unrelated_ones_are_not(rng):
    rois, label = disjoint_rois(rng)
    effect = np.array([2.0, 0, 0, 0, 0])[label]
    planted = score_roi_correspondence(rng.normal(size=(2, 120)) + effect, rois, n_permutations=199, seed=0)
    assert planted.p == 1 / 200
    assert planted.p_roi[:, 0].max() < 0.02
    p = [
        score_roi_correspondence(rng.normal(size=(2, 120)), rois, n_permutations=39, seed=seed).p for seed in range(80)
    ]
    assert 0.35 < np.mean(p) < 0.65  # uniform under the null hypothesis


def test_overlapping_rois_explain_what_a_regression_does(rng):
    rois = rng.random((3, 80)) < 0.5
    activations = rng.normal(size=(1, 80))
    result = score_roi_correspondence(activations, rois, n_permutations=1, seed=0)
    inside = rois.any(axis=0)
    design = np.concatenate([rois[:, inside].T, np.ones((inside.sum(), 1))], axis=1).astype(float)
    values = activations[0, inside]
    residual = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    assert result.score == pytest.approx(1 - residual.var() / values.var())


def test_one_roi_is_not_enough():
    with pytest.raises(BadInput, match="at least two ROIs"):
        score_roi_correspondence(np.ones((1, 4)), np.ones((1, 4), bool), n_permutations=1, seed=0)
    with pytest.raises(BadInput, match="at least two ROIs"):
        score_roi_correspondence(np.ones((1, 4)), np.ones((2, 4), bool), n_permutations=1, seed=0)


def test_a_p_value_is_never_0_and_counts_equals():
    assert count_as_extreme(np.array([0.1, 0.5, 0.9]), np.float64(0.5)) == 3 / 4
    assert count_as_extreme(np.array([0.1]), np.float64(7)) == 1 / 2


@pytest.fixture
def rng():
    return np.random.default_rng(7)
