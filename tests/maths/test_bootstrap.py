from __future__ import annotations

import numpy as np

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
            low, high = np.quantile(values, [0.025, 0.975])
            np.testing.assert_allclose([intervals[name].low, intervals[name].high], [low, high], atol=1e-4)
        assert intervals["none"].low is None


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """r of 60 voxels and 60 images from a world whose true correlation is known: 95 % intervals of the mean r."""
    rng = np.random.default_rng(1)
    true_r = 0.5
    covered = 0
    for world in range(120):
        mixing = rng.standard_normal((5, 60))
        shared = rng.standard_normal((60, 5)) @ (mixing / np.linalg.norm(mixing, axis=0))  # voxels are not independent
        measured = (true_r * shared + (1 - true_r**2) ** 0.5 * rng.standard_normal((60, 60))).astype(np.float32)
        interval = bootstrap_rois(shared.astype(np.float32), measured, {}, n_draws=200, seed=world).r["all"]
        covered += bool(interval.low <= true_r <= interval.high)
    assert 0.85 <= covered / 120 <= 1.0


def test_draws_have_as_many_images_and_follow_the_seed() -> None:
    counts = draw_counts(11, n_draws=50, seed=0)
    assert (counts.sum(axis=1) == 11).all()
    assert np.array_equal(counts, draw_counts(11, n_draws=50, seed=0))
    assert not np.array_equal(counts, draw_counts(11, n_draws=50, seed=1))
