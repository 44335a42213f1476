from __future__ import annotations

import numpy as np

from aligncut_cli.maths.control_targets import draw_random_targets, shuffle_pairs


def test_a_shuffle_keeps_every_response_and_no_pair() -> None:
    for n in (2, 3, 50):
        rows = shuffle_pairs(n, seed=0)
        assert sorted(rows) == list(range(n))
        assert (rows != np.arange(n)).all()
    assert (shuffle_pairs(50, seed=0) != shuffle_pairs(50, seed=1)).any()
    assert (shuffle_pairs(50, seed=0) == shuffle_pairs(50, seed=0)).all()


def test_random_targets_have_the_responses_mean_and_spectrum_but_know_no_image() -> None:
    rng = np.random.default_rng(0)
    responses = (rng.standard_normal((3000, 6)) * [5, 3, 2, 1, 1, 0.5] @ rng.standard_normal((6, 6)) + 7).astype(
        np.float32
    )
    drawn = draw_random_targets(responses, np.arange(3000), seed=0)
    spectrum = np.linalg.eigvalsh(np.cov(responses, rowvar=False))
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(drawn, rowvar=False)), spectrum, rtol=0.15)
    np.testing.assert_allclose(drawn.mean(axis=0), responses.mean(axis=0), atol=0.6)
    correlation = [np.corrcoef(drawn[:, voxel], responses[:, voxel])[0, 1] for voxel in range(6)]
    assert np.abs(correlation).max() < 0.07


def test_a_random_target_does_not_depend_on_the_rows_drawn_with_it() -> None:
    responses = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
    whole = draw_random_targets(responses, np.arange(40), seed=3)
    np.testing.assert_allclose(
        draw_random_targets(responses, np.array([7, 2]), seed=3), whole[[7, 2]], rtol=1e-5, atol=1e-6
    )
    naive = [np.random.default_rng([3, 2, 7]).standard_normal(40) @ (responses - responses.mean(axis=0)) / np.sqrt(39)]
    np.testing.assert_allclose(whole[7], naive[0] + responses.mean(axis=0), rtol=1e-4, atol=1e-5)
