"""The choice of an ROI's channels: planted ones, gauge, and the share of the prediction that they carry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.channel_choice import choose_channels


def make_encoding(seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pooled channels (image, 64) whose deviations differ by decades, and a readout (64, 10) that ignores them."""
    rng = np.random.default_rng(seed)
    pooled = rng.standard_normal((300, 64)) * 10 ** rng.uniform(-2, 1, 64)
    return pooled, rng.standard_normal((64, 10)) * 10 ** rng.uniform(-1, 1, (64, 1))


def share_of_prediction(pooled: NDArray[np.float64], readout: NDArray[np.float64], chosen: NDArray[np.int64]) -> float:
    """Variance of the prediction from some channels over that from all, voxels together."""
    return float((pooled[:, chosen] @ readout[chosen]).var(axis=0).sum() / (pooled @ readout).var(axis=0).sum())


def test_chosen_channels_are_those_of_a_plain_loop() -> None:
    pooled, readout = make_encoding(0)
    deviation = pooled.std(axis=0)
    weights = [sum(abs(beta) for beta in row) / len(row) * s for row, s in zip(readout, deviation, strict=True)]
    expected = sorted(sorted(range(64), key=lambda k: -weights[k])[:8])
    assert choose_channels(readout, deviation, 8).tolist() == expected
    assert choose_channels(readout, deviation, 1000).tolist() == list(range(64))
    assert choose_channels(np.ones((4, 2)), np.ones(4), 2).tolist() == [0, 1]


def test_a_change_of_gauge_changes_nothing() -> None:
    pooled, readout = make_encoding(1)
    scale = 10 ** np.random.default_rng(2).uniform(-3, 3, 64)
    before = choose_channels(readout, pooled.std(axis=0), 8)
    after = choose_channels(readout / scale[:, None], (pooled * scale).std(axis=0), 8)
    assert np.array_equal(before, after)
    by_beta = [np.sort(np.argsort(-np.abs(beta).mean(axis=1))[:8]) for beta in (readout, readout / scale[:, None])]
    assert not np.array_equal(*by_beta)


def test_planted_channels_are_found() -> None:
    rng = np.random.default_rng(3)
    pooled = rng.standard_normal((200, 40))
    readout = 0.02 * rng.standard_normal((40, 6))
    planted = np.array([3, 17, 18, 31])
    readout[planted] = rng.standard_normal((4, 6))
    assert np.array_equal(choose_channels(readout, pooled.std(axis=0), 4), planted)


def test_chosen_channels_carry_the_prediction_where_the_largest_betas_do_not() -> None:
    ours, by_beta = [], []
    for seed in range(20):
        pooled, readout = make_encoding(seed)
        ours.append(share_of_prediction(pooled, readout, choose_channels(readout, pooled.std(axis=0), 8)))
        by_beta.append(share_of_prediction(pooled, readout, np.argsort(-np.abs(readout).mean(axis=1))[:8]))
    assert np.mean(ours) > 0.9
    assert np.mean(ours) > np.mean(by_beta) + 0.25
