"""A ridge summed over blocks, with or without the exact reduction, against scikit-learn's on everything at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from aligncut_cli.maths.exact_reduction import reduce_features
from aligncut_cli.maths.ridge import PENALTIES
from aligncut_cli.maths.streamed_ridge import GramSums, PenaltyTrial, SlotSpread

CPU = torch.device("cpu")


def world(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d)) @ np.diag(np.linspace(0.1, 3, d)) + 5
    return x, x[:, -4:] @ rng.standard_normal((4, 3)) + rng.standard_normal((n, 3))


def sums_of(x: np.ndarray, y: np.ndarray, step: int) -> GramSums:
    sums = GramSums(x.shape[1], y.shape[1], CPU)
    for start in range(0, len(x), step):
        sums.add(torch.from_numpy(x[start : start + step]), torch.from_numpy(y[start : start + step]))
    return sums


@pytest.mark.parametrize("penalty", [1e-4, 0.1])
def test_blocks_give_the_ridge_of_all_images(penalty: float) -> None:
    x, y = world(60, 10)
    ridge = sums_of(x, y, 7).solve()
    strength = penalty * float(ridge.eigenvalues[-1]) * len(x)
    slow = Ridge(alpha=strength).fit(x, y)
    predicted = ridge.predict(torch.from_numpy(x), ridge.solve_penalty(penalty)).numpy()
    np.testing.assert_allclose(predicted, slow.predict(x), rtol=1e-8)
    assert not ridge.solve_penalty(float("inf")).any()


def test_sums_of_two_parts_are_the_sums_of_both() -> None:
    x, y = world(40, 6)
    both = sums_of(x[:25], y[:25], 9)
    both.add_sums(sums_of(x[25:], y[25:], 9))
    np.testing.assert_allclose(both.xx, x.T @ x)
    np.testing.assert_allclose(both.solve().rotated.square(), sums_of(x, y, 40).solve().rotated.square(), rtol=1e-6)


def test_the_penalty_is_the_one_that_predicts_validation_images_best() -> None:
    x, y = world(60, 20)
    ridge = sums_of(x[:30], y[:30], 8).solve()
    trial = PenaltyTrial(ridge)
    for start in range(30, 60, 7):
        trial.add(torch.from_numpy(x[start : start + 7]), torch.from_numpy(y[start : start + 7]))
    errors = []
    for penalty in PENALTIES[:-1]:
        alpha = penalty * float(ridge.eigenvalues[-1]) * 30
        errors.append(np.square(Ridge(alpha=alpha).fit(x[:30], y[:30]).predict(x[30:60]) - y[30:60]).sum())
    assert trial.best() == PENALTIES[int(np.argmin(errors))]


def test_more_features_than_images_are_reduced_to_the_same_predictions() -> None:
    x, y = world(50, 200)
    fitted, centred = np.arange(30), (x - x[:30].mean(axis=0)).astype(np.float32)
    small = reduce_features(centred, fitted, device=CPU).astype(np.float64)
    assert small.shape[1] <= 30
    for penalty in (1e-3, 0.3):
        ridge = sums_of(small[:30], y[:30], 8).solve()
        fast = ridge.predict(torch.from_numpy(small[30:]), ridge.solve_penalty(penalty)).numpy()
        alpha = penalty * float(ridge.eigenvalues[-1]) * 30
        np.testing.assert_allclose(fast, Ridge(alpha=alpha).fit(x[:30], y[:30]).predict(x[30:]), rtol=1e-3, atol=1e-3)


def test_slots_get_one_spread_and_a_constant_one_gets_none() -> None:
    x, _ = world(40, 6)
    x[:, 4:] = 3.0
    spread = SlotSpread([1, 3, 2])
    for start in range(0, 40, 11):
        spread.add(x[start : start + 11].astype(np.float32))
    scaled = (x - spread.mean) * spread.factor
    square = np.square(scaled).mean(axis=0)
    np.testing.assert_allclose([square[:1].sum(), square[1:4].sum(), square[4:].sum()], [1 / 3, 1 / 3, 0], rtol=1e-4)
