from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from aligncut_cli.maths.encoding import iterate_slots
from aligncut_cli.maths.response_scores import score_r2
from aligncut_cli.maths.ridge import (
    PENALTIES,
    KernelRidge,
    SlotStatistics,
    choose_penalty,
    decompose_kernels,
    measure_slot,
    predict_by_ridge,
    score_voxels,
)
from aligncut_cli.maths.split_images import ImageSplit, split_images

CPU = torch.device("cpu")


def make_data(noise: float = 1.0) -> tuple[list[np.ndarray], np.ndarray, ImageSplit]:
    """Two models of different width and scale; responses linear in some channels of both."""
    rng = np.random.default_rng(0)
    pooled = [rng.standard_normal((2, 90, 7)) * 3 + 5, rng.standard_normal((1, 90, 4)) * 0.01]
    side_by_side = np.concatenate([pooled[0][0], pooled[0][1], pooled[1][0] * 100], axis=1)
    targets = side_by_side @ rng.standard_normal((18, 5)) + noise * rng.standard_normal((90, 5))
    split = split_images(90, validation_share=0.2, test_share=0.2, seed=0)
    targets -= targets[split.train].mean(axis=0)
    return [model.astype(np.float32) for model in pooled], targets.astype(np.float32), split


def decompose(
    pooled: list[np.ndarray], split: ImageSplit, *, equalize: bool
) -> tuple[KernelRidge, list[SlotStatistics]]:
    statistics = [measure_slot(features, split.train) for _, _, features in iterate_slots(pooled)]
    return decompose_kernels(pooled, statistics, split.train, equalize=[equalize], device=CPU)[0], statistics


@pytest.mark.parametrize("equalize", [False, True])
def test_it_is_sklearns_ridge_on_all_slots_side_by_side_with_the_penalty_that_validates_best(equalize: bool) -> None:
    pooled, targets, split = make_data()
    ridge, statistics = decompose(pooled, split, equalize=equalize)
    fit = choose_penalty(ridge, targets, split, voxels_per_block=2)

    spreads = np.array([slot.spread for slot in statistics])
    factors = 1 / spreads if equalize else np.full(3, 1 / np.sqrt((spreads**2).mean()))
    slots = [features * factor for (_, _, features), factor in zip(iterate_slots(pooled), factors, strict=True)]
    x = np.concatenate(slots, axis=1).astype(np.float64)
    centred = x[split.train] - x[split.train].mean(axis=0)
    largest = np.linalg.eigvalsh(centred @ centred.T / 3)[-1]
    scores, models = [], []
    for penalty in PENALTIES[:-1]:
        model = Ridge(alpha=penalty * largest * 3).fit(x[split.train], targets[split.train])
        models.append(model)
        scores.append(score_r2(model.predict(x[split.validation]).astype(np.float32), targets[split.validation]).mean())
    best = int(np.argmax(scores))
    assert fit.penalty == PENALTIES[best]
    assert abs(fit.validation_r2 - scores[best]) < 1e-3
    predicted = predict_by_ridge(fit, targets, split.train, split.test, voxels_per_block=3)
    np.testing.assert_allclose(predicted, models[best].predict(x[split.test]), atol=1e-3)


def test_blocks_of_voxels_change_nothing() -> None:
    pooled, targets, split = make_data()
    ridge, _ = decompose(pooled, split, equalize=True)
    whole = choose_penalty(ridge, targets, split, voxels_per_block=100)
    parts = choose_penalty(ridge, targets, split, voxels_per_block=1)
    assert whole.penalty == parts.penalty
    np.testing.assert_allclose(whole.validation_r2, parts.validation_r2, rtol=1e-5)


def test_pure_noise_is_predicted_by_its_mean() -> None:
    pooled, _, split = make_data()
    noise = np.random.default_rng(1).standard_normal((90, 400)).astype(np.float32)
    noise -= noise[split.train].mean(axis=0)
    ridge, _ = decompose(pooled, split, equalize=True)
    fit = choose_penalty(ridge, noise, split, voxels_per_block=400)
    assert fit.penalty >= 10
    if np.isinf(fit.penalty):
        assert not predict_by_ridge(fit, noise, split.train, split.test, voxels_per_block=400).any()


def test_a_constant_slot_and_a_constant_voxel_do_no_harm() -> None:
    pooled, targets, split = make_data()
    pooled[0][1] = 2.0
    targets[:, 3] = 0.0
    ridge, statistics = decompose(pooled, split, equalize=True)
    assert statistics[1].spread == 1.0
    fit = choose_penalty(ridge, targets, split, voxels_per_block=5)
    assert np.isfinite(fit.validation_r2)
    assert np.isfinite(predict_by_ridge(fit, targets, split.train, split.test, voxels_per_block=5)).all()


def test_r2_on_tensors_is_r2_on_arrays() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((9, 4)).astype(np.float32) for _ in range(2))
    b[:, 1] = 0.5
    expected = score_r2(a, b)
    np.testing.assert_allclose(score_voxels(torch.from_numpy(a), torch.from_numpy(b)).numpy(), expected, rtol=1e-5)
