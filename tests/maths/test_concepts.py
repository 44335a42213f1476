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
    compare_with_controls,
    find_members,
    measure_squared_distances,
    relate_magnitude_to_deviation,
    score_roi_correspondence,
)


def test_centres_start_in_the_middle_and_go_to_the_far_ends():
    coords = np.array([[0.0, 0], [0.1, 0], [10, 0], [-10, 1], [0, 8]])
    places, reach = choose_centres(coords, n_concepts=4, sparse=0)
    assert places.tolist() == coords[[0, 3, 2, 4]].tolist()
    assert reach.tolist() == [0, 0, 0, 0]  # each holds itself, which is more than 1 %
    with pytest.raises(UsageError, match="6 concepts among 5 patches"):
        choose_centres(coords, n_concepts=6, sparse=0)


def clusters_and_outliers(rng):
    """Four dense places of 200 patches, and 60 patches that lie alone far out."""
    dense = np.repeat([[0.0, 0], [8, 0], [0, 8], [8, 8]], 200, axis=0) + rng.normal(0, 0.5, (800, 2))
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return np.concatenate([dense, 4 + 60 * np.stack([np.cos(angle), np.sin(angle)], 1)])


def test_centres_lie_in_dense_places_and_not_on_outliers(rng):
    coords = clusters_and_outliers(rng)
    outliers, _ = choose_centres(coords, n_concepts=4, sparse=0)
    assert (np.abs(outliers - 4).max(axis=1) > 30).sum() == 3  # what farthest points alone choose
    places, reach = choose_centres(coords, n_concepts=4, sparse=0.5)
    corners = np.array([[0, 0], [8, 0], [0, 8], [8, 8]])
    distance = np.hypot(*(places[:, None] - corners).transpose(2, 0, 1))
    assert sorted(distance.argmin(axis=1)) == [0, 1, 2, 3]
    assert distance.min(axis=1).max() < 1
    for place, radius in zip(places, reach, strict=True):
        within = sorted(math.dist(place, point) for point in coords)
        assert radius == pytest.approx(within[math.ceil(0.01 * 860) - 1])


def test_the_sparse_that_are_no_centres_are_those_whose_near_patches_lie_farthest(rng):
    coords = np.repeat(rng.normal(size=(90, 2)), rng.integers(1, 4, 90), axis=0)
    near = math.ceil(0.01 * len(coords))
    spread = [sorted(math.dist(one, other) for other in coords)[near - 1] for one in coords]
    places, _ = choose_centres(coords, n_concepts=25, sparse=0.6)
    limit = sorted(spread)[math.ceil(0.4 * len(coords))]
    chosen = [spread[int(np.flatnonzero((coords == place).all(axis=1))[0])] for place in places]
    assert max(chosen) <= limit
    every, _ = choose_centres(coords, n_concepts=90, sparse=0.6)  # where fewer would be left than are asked for
    assert len(np.unique(every, axis=0)) == 90


def test_the_radius_is_half_the_median_distance_to_the_nearest_centre_and_leaves_no_ball_empty():
    centres = np.array([[0.0, 0], [2, 0], [6, 0], [16, 0]])  # nearest: 2, 2, 4, 10
    assert choose_radius(centres, np.zeros(4)) == 1.5
    assert choose_radius(centres, np.array([0, 0, 1.7, 0])) == 1.7
    with pytest.raises(UsageError, match="--radius"):
        choose_radius(centres[:1], np.zeros(1))
    with pytest.raises(BadInput, match="coincide"):
        choose_radius(centres[[0, 0, 0]], np.zeros(3))


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
    moments, others = ConceptMoments(4, 6), ConceptMoments(4, 6)
    for at in range(0, 300, 7):
        (moments if at < 150 else others).add(tokens[at : at + 7], members[at : at + 7])
    moments.merge(others)
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
    result = score_roi_correspondence(activations, rois)
    for concept in (0, 2):
        assert result.by_concept[concept] == pytest.approx(naive_share(activations[concept], label))
        inside = activations[concept][label >= 0]
        for roi in range(4):
            own = activations[concept][rois[roi]]
            assert result.contrast[concept, roi] == pytest.approx((own.mean() - inside.mean()) / inside.std())
    assert result.score == pytest.approx(np.nanmean(result.by_concept))
    assert np.isnan(result.by_concept[1])
    assert np.isnan(result.contrast[1]).all()


def test_an_empty_roi_keeps_its_place(rng):
    rois, _ = disjoint_rois(rng)
    activations = rng.normal(size=(2, 120))
    result = score_roi_correspondence(activations, np.insert(rois, 1, False, axis=0))
    wanted = score_roi_correspondence(activations, rois)
    assert np.isnan(result.contrast[:, 1]).all()
    np.testing.assert_allclose(np.delete(result.contrast, 1, axis=1), wanted.contrast)
    assert result.score == wanted.score


def test_p_against_controls_is_that_of_a_loop_over_them(rng):
    rois, label = disjoint_rois(rng)
    found, *controls = (
        score_roi_correspondence(rng.normal(size=(3, 120)) + rng.normal(size=(3, 5))[:, label], rois) for _ in range(20)
    )
    result = compare_with_controls(found, controls)
    assert result.null.tolist() == [control.score for control in controls]
    assert result.p == (1 + sum(control.score >= found.score for control in controls)) / 20
    for concept, roi in np.ndindex(3, 4):
        others = [control.contrast[concept, roi] for control in controls]
        mean = sum(others) / 19
        spread = math.sqrt(sum((x - mean) ** 2 for x in others) / 18)
        assert result.z[concept, roi] == pytest.approx((found.contrast[concept, roi] - mean) / spread)
    shares = np.array([fit.by_concept for fit in [found, *controls]])
    shares = (shares - shares.mean(axis=0)) / shares.std(axis=0)
    for concept in range(3):
        wanted = (1 + sum(max(row) >= shares[0][concept] - 1e-9 for row in shares[1:])) / 20
        assert result.p_concept[concept] == pytest.approx(wanted)
    assert (result.p_roi >= 1 / 20).all()


def fit_of_smooth_voxels(rng, label, effect):
    """What any readout gives: voxels of an ROI alike, whatever was learned, and on top what the real fit adds."""
    own = rng.normal(size=(4, 5))
    own[:, 0] += effect
    return rng.normal(size=(4, 120)) + own[:, label]


def test_a_real_fit_that_is_one_more_control_has_no_small_p_and_a_planted_effect_has(rng):
    rois, label = disjoint_rois(rng)
    overall, concepts, found = [], [], []
    for _ in range(60):
        fits = [score_roi_correspondence(fit_of_smooth_voxels(rng, label, 0), rois) for _ in range(20)]
        assert np.mean([fit.score for fit in fits]) > 0.3  # the score is high, and says nothing
        result = compare_with_controls(fits[0], fits[1:])
        overall.append(result.p)
        concepts.append(np.nanmin(result.p_concept))
        planted = score_roi_correspondence(fit_of_smooth_voxels(rng, label, 6), rois)
        found.append(compare_with_controls(planted, fits[1:]))
    assert 0.4 < np.mean(overall) < 0.65
    assert np.mean(np.array(overall) <= 0.1) < 0.2
    assert np.mean(np.array(concepts) <= 0.1) < 0.2
    assert np.mean([result.p == 1 / 20 for result in found]) > 0.9
    assert np.mean([result.p_roi[:, 0].min() == 1 / 20 for result in found]) > 0.5


def test_one_control_gives_no_deviation_and_a_concept_without_members_no_p(rng):
    rois, _ = disjoint_rois(rng)
    activations = rng.normal(size=(2, 120))
    activations[1] = np.nan
    found = score_roi_correspondence(activations, rois)
    result = compare_with_controls(found, [score_roi_correspondence(activations[:, ::-1], rois)])
    assert np.isnan(result.z).all()
    assert result.p in (1 / 2, 1)
    assert np.isnan(result.p_concept[1])
    assert np.isnan(result.p_roi[1]).all()


def test_overlapping_rois_explain_what_a_regression_does(rng):
    rois = rng.random((3, 80)) < 0.5
    activations = rng.normal(size=(1, 80))
    result = score_roi_correspondence(activations, rois)
    inside = rois.any(axis=0)
    design = np.concatenate([rois[:, inside].T, np.ones((inside.sum(), 1))], axis=1).astype(float)
    values = activations[0, inside]
    residual = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    assert result.score == pytest.approx(1 - residual.var() / values.var())


def test_one_roi_is_not_enough():
    with pytest.raises(BadInput, match="at least two ROIs"):
        score_roi_correspondence(np.ones((1, 4)), np.ones((1, 4), bool))
    with pytest.raises(BadInput, match="at least two ROIs"):
        score_roi_correspondence(np.ones((1, 4)), np.ones((2, 4), bool))


@pytest.fixture
def rng():
    return np.random.default_rng(7)
