from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.maths.bootstrap import bootstrap_rois, draw_counts
from aligncut_cli.maths.response_scores import score_r, score_r2


def test_scores_of_every_draw_are_those_of_the_images_drawn() -> None:
    """Against the definition: repeat each image as often as it is drawn, then score."""
    rng = np.random.default_rng(0)
    measured = rng.standard_normal((30, 7)).astype(np.float32) + 100
    predicted = (measured + rng.standard_normal((30, 7))).astype(np.float32)
    measured[:, 3] = 5  # a constant voxel scores 0
    rois = {"V1": np.arange(7) < 4, "none": np.zeros(7, bool)}
    found = bootstrap_rois(predicted, measured, rois, n_draws=40, seed=3)
    rows = [np.repeat(np.arange(30), counts.astype(int)) for counts in draw_counts(30, n_draws=40, seed=3)]
    for score, intervals in ((score_r2, found.r2), (score_r, found.r)):
        means = {
            "V1": [float(score(predicted[r], measured[r])[:4].mean()) for r in rows],
            "all": [float(score(predicted[r], measured[r]).mean()) for r in rows],
        }
        for name, values in means.items():
            once = float(score(predicted, measured)[: 4 if name == "V1" else 7].mean())
            low, high = np.quantile(values, [0.025, 0.975]) + once - np.median(values)
            assert low < once < high
            np.testing.assert_allclose([intervals[name].low, intervals[name].high], [low, high], atol=1e-4)
        assert intervals["none"].low is None


@pytest.mark.parametrize("n_images", [20, 60])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(n_images: int) -> None:
    """95 % intervals of the mean over 60 dependent voxels; the truth is the mean score of as many other images."""
    rng = np.random.default_rng(1)
    intervals, scores = {"r2": [], "r": []}, {"r2": [], "r": []}
    for world in range(150):
        mixing = rng.standard_normal((5, 60))
        shared = 0.5 * rng.standard_normal((n_images, 5)) @ (mixing / np.linalg.norm(mixing, axis=0))
        measured = (shared + 0.75**0.5 * rng.standard_normal((n_images, 60))).astype(np.float32)
        predicted = shared.astype(np.float32)
        found = bootstrap_rois(predicted, measured, {}, n_draws=200, seed=world)
        for kind, score in (("r2", score_r2), ("r", score_r)):
            scores[kind].append(float(score(predicted, measured).mean()))
            intervals[kind].append((found.r2 if kind == "r2" else found.r)["all"])
    for kind, truth in ((kind, np.mean(values)) for kind, values in scores.items()):
        covered = np.mean([interval.low <= truth <= interval.high for interval in intervals[kind]])
        assert 0.87 <= covered <= 0.99, (kind, covered)


def test_draws_have_as_many_images_and_follow_the_seed() -> None:
    counts = draw_counts(11, n_draws=50, seed=0)
    assert (counts.sum(axis=1) == 11).all()
    assert np.array_equal(counts, draw_counts(11, n_draws=50, seed=0))
    assert not np.array_equal(counts, draw_counts(11, n_draws=50, seed=1))
