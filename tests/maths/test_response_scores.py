from __future__ import annotations

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from aligncut_cli.maths.response_scores import average_over_rois, score_r, score_r2

RNG = np.random.default_rng(0)
MEASURED = RNG.standard_normal((20, 4)).astype(np.float32) * [1, 10, 1, 1] + [0, 100, 0, 0]
MEASURED = MEASURED.astype(np.float32)
PREDICTED = (MEASURED + RNG.standard_normal((20, 4))).astype(np.float32)


def test_scores_match_sklearn_and_scipy() -> None:
    expected_r2 = r2_score(MEASURED, PREDICTED, multioutput="raw_values")
    expected_r = [pearsonr(PREDICTED[:, voxel], MEASURED[:, voxel])[0] for voxel in range(4)]
    np.testing.assert_allclose(score_r2(PREDICTED, MEASURED), expected_r2, atol=1e-5)
    np.testing.assert_allclose(score_r(PREDICTED, MEASURED), expected_r, atol=1e-5)


def test_constant_voxels_and_predictions_score_zero() -> None:
    measured, predicted = MEASURED.copy(), PREDICTED.copy()
    measured[:, 0] = 0.1
    predicted[:, 1] = 0.1
    assert score_r2(predicted, measured)[0] == 0
    assert score_r(predicted, measured)[:2].tolist() == [0, 0]
    assert score_r2(predicted, measured)[1] < 0


def test_rois_are_averaged_and_set_against_the_ceiling() -> None:
    score = np.array([0.1, 0.2, 0.3, 0.0], dtype=np.float32)
    rois = {"V1": np.array([True, True, False, False]), "none": np.zeros(4, dtype=bool)}
    means = average_over_rois(score, rois)
    assert list(means) == ["V1", "none", "all"]
    assert abs((means["V1"] or 0) - 0.15) < 1e-6
    assert means["none"] is None
    assert abs((means["all"] or 0) - 0.15) < 1e-6
    ceiling = np.array([0.5, 0.25, 0.0, 0.0], dtype=np.float32)
    normalized = average_over_rois(score, rois, ceiling=ceiling)
    assert abs((normalized["V1"] or 0) - 0.3 / 0.75) < 1e-6
    assert average_over_rois(score, {"dark": ceiling == 0}, ceiling=ceiling)["dark"] is None
