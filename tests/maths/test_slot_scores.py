from __future__ import annotations

import numpy as np
import torch

from aligncut_cli.maths.encoding import iterate_slots
from aligncut_cli.maths.response_scores import score_r2
from aligncut_cli.maths.ridge import PENALTIES, measure_slot
from aligncut_cli.maths.slot_scores import predict_by_each_slot
from aligncut_cli.maths.split_images import split_images, split_into_folds


def test_each_slot_predicts_as_a_ridge_of_its_own_does() -> None:
    rng = np.random.default_rng(0)
    split = split_images(120, validation_share=0.2, test_share=0.2, seed=0)
    latent = rng.standard_normal((120, 4))
    noise = rng.standard_normal((120, 4))
    pooled = [
        np.stack([latent @ rng.standard_normal((4, 9)), noise @ rng.standard_normal((4, 9))]).astype(np.float32),
        np.stack([(latent + 2 * noise) @ rng.standard_normal((4, 6)) * 100]).astype(np.float32),
    ]
    targets = (latent @ rng.standard_normal((4, 15)) + 0.5 * rng.standard_normal((120, 15))).astype(np.float32)
    targets -= targets[split.train].mean(axis=0)
    statistics = [measure_slot(values, split.train) for _, _, values in iterate_slots(pooled)]
    scores = []
    for number, (model, layer, predicted) in enumerate(
        predict_by_each_slot(pooled, statistics, split, targets, device=torch.device("cpu"))
    ):
        own = statistics[number]
        rows = (pooled[model][layer] - own.mean).astype(np.float64) / own.spread
        x = rows[split.train]
        largest = np.linalg.eigvalsh(x.T @ x)[-1]
        tried = [
            rows @ np.linalg.solve(x.T @ x + p * largest * np.eye(x.shape[1]), x.T @ targets[split.train])
            if np.isfinite(p)
            else np.zeros_like(targets)
            for p in PENALTIES
        ]
        best = max(tried, key=lambda y: score_r2(y[split.validation], targets[split.validation]).mean())
        np.testing.assert_allclose(predicted, best[split.test], atol=1e-4)
        scores.append(float(score_r2(predicted, targets[split.test]).mean()))
    assert scores[0] > 0.7  # the latent itself
    assert -0.3 < scores[1] < 0.05  # nothing of it
    assert scores[1] < scores[2] < scores[0]


def test_folds_hold_every_image_out_once_and_share_nothing() -> None:
    splits = split_into_folds(53, n_folds=5, validation_share=0.1, seed=3)
    assert np.array_equal(np.sort(np.concatenate([split.test for split in splits])), np.arange(53))
    for split in splits:
        every = np.concatenate([split.train, split.validation, split.test])
        assert np.array_equal(np.sort(every), np.arange(53))
    assert not np.array_equal(splits[0].test, split_into_folds(53, n_folds=5, validation_share=0.1, seed=4)[0].test)
