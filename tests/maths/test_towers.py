"""What towers are trained for, against loops; and that they learn what is planted, from a fixed seed."""

from __future__ import annotations

import numpy as np
import torch

from aligncut_cli.maths.tower_fit import Batch, TowerSettings, measure_loss, train_towers
from aligncut_cli.maths.towers import GRID, Towers, contrast_maps


def test_the_contrastive_loss_is_the_mean_of_both_directions_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 8)), rng.standard_normal((5, 8))
    unit = [(m - m.mean(axis=0)) / np.linalg.norm(m - m.mean(axis=0), axis=1, keepdims=True) for m in (a, b)]
    total = 0.0
    for i in range(5):
        for one, two in (unit, unit[::-1]):
            similar = [7 * one[i] @ two[j] for j in range(5)]
            total += np.log(np.sum(np.exp(similar))) - similar[i]
    fast = contrast_maps(torch.from_numpy(a), torch.from_numpy(b), torch.tensor(7.0))
    np.testing.assert_allclose(float(fast), total / 10)


def test_regression_reads_responses_out_by_the_same_weights() -> None:
    torch.manual_seed(0)
    towers = Towers(neurons=6, channels=2, dropout=0.0, objective="regression").eval()
    photos, responses = torch.randn(4, 3, 32, 32), torch.randn(4, 6)
    maps = towers.image(photos)
    assert maps.shape == (4, 2, GRID, GRID)
    flat = maps.flatten(1) - maps.flatten(1).mean(dim=0)
    weight = towers.neural.weight.detach()
    errors = [float(flat[i].detach() @ weight[:, k] - responses[i, k]) ** 2 for i in range(4) for k in range(6)]
    loss = towers.loss(photos, responses, torch.zeros(4)).detach()
    np.testing.assert_allclose(float(loss), np.mean(errors), rtol=1e-5)


def train(objective: str, seed: int) -> tuple[Towers, list[float]]:
    """Train on photos whose four quarters have a brightness each, to which four neurons respond."""
    rng = np.random.default_rng(1)
    levels = rng.standard_normal((96, 2, 2)).astype(np.float32)
    photos = torch.from_numpy(np.kron(levels, np.ones((16, 16), np.float32))[:, None].repeat(3, axis=1))
    responses = torch.from_numpy(levels.reshape(96, 4))
    classes = torch.from_numpy((levels[:, 0, 0] > 0).astype(np.int64))

    def read(images: np.ndarray) -> Batch:
        return Batch(photos[images], responses[images], classes[images])

    torch.manual_seed(seed)
    towers = Towers(neurons=4, channels=4, dropout=0.0, objective=objective, categories=2)
    history = train_towers(
        towers,
        read,
        train=np.arange(80),
        validation=np.arange(80, 96),
        settings=TowerSettings(epochs=8, patience=4, batch_images=20, learning_rate=1e-2, weight_decay=0.01),
        seed=0,
    )
    kept = measure_loss(towers, read, np.arange(80, 96))
    np.testing.assert_allclose(kept, min(history.losses), rtol=1e-5)
    assert history.losses[history.kept - 1] == min(history.losses)
    return towers, history.losses


def test_every_objective_learns_what_is_planted_and_repeats_from_a_seed() -> None:
    for objective in ("contrastive", "regression", "classes"):
        towers, losses = train(objective, 0)
        assert min(losses) < 0.6 * losses[0], objective
    again, same = train("classes", 0)
    assert same == losses
    assert all(torch.equal(a, b) for a, b in zip(towers.parameters(), again.parameters(), strict=True))
