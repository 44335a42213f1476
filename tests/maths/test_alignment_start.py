from __future__ import annotations

import numpy as np
import pytest
import torch

from aligncut_cli.maths.alignment_start import (
    OWN_SHARE,
    AlignmentStart,
    find_leading_directions,
    start_at_random,
    start_from_consensus,
    start_from_responses,
)
from aligncut_cli.maths.encoding import average_slots, iterate_slots
from aligncut_cli.maths.response_axes import find_response_axes, fit_slots_to_axes
from aligncut_cli.maths.ridge import PENALTIES, RidgeFit, choose_penalty, decompose_kernels, measure_slot
from aligncut_cli.maths.split_images import ImageSplit, split_images

CPU = torch.device("cpu")


def make_data(*, signal: float, n_voxels: int = 20) -> tuple[list[np.ndarray], np.ndarray, ImageSplit]:
    """Four slots of two models that are maps of one latent space; responses linear in it, z-scored."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((150, 5))
    pooled = [
        (np.stack([latent @ rng.standard_normal((5, width)) for _ in range(2)]) * scale + 1).astype(np.float32)
        for width, scale in ((8, 1.0), (6, 0.01))
    ]
    targets = signal * latent @ rng.standard_normal((5, n_voxels)) + rng.standard_normal((150, n_voxels))
    split = split_images(150, validation_share=0.2, test_share=0.1, seed=0)
    targets -= targets[split.train].mean(axis=0)
    targets /= targets[split.train].std(axis=0)
    return pooled, targets.astype(np.float32), split


def fit_ridge(pooled: list[np.ndarray], targets: np.ndarray, split: ImageSplit) -> RidgeFit:
    statistics = [measure_slot(features, split.train) for _, _, features in iterate_slots(pooled)]
    ridge = decompose_kernels(pooled, statistics, split.train, equalize=[True], device=CPU)[0]
    return choose_penalty(ridge, targets, split, voxels_per_block=7)


def start(pooled: list[np.ndarray], targets: np.ndarray, split: ImageSplit, *, universal_dim: int) -> AlignmentStart:
    fit = fit_ridge(pooled, targets, split)
    statistics = [measure_slot(features, split.train) for _, _, features in iterate_slots(pooled)]
    nodes = [features[:, split.train] for features in pooled]
    return start_from_responses(
        pooled, statistics, fit, targets, split, nodes,
        universal_dim=universal_dim, voxels_per_block=7,
    )  # fmt: skip


@pytest.mark.parametrize("n_voxels", [20, 200])
def test_axes_are_the_principal_ones_of_the_predicted_responses(n_voxels: int) -> None:
    pooled, targets, split = make_data(signal=2.0, n_voxels=n_voxels)
    fit = fit_ridge(pooled, targets, split)
    axes = find_response_axes(fit.ridge, fit.penalty, targets, split.train, n_axes=4, voxels_per_block=6).numpy()
    kernel = fit.ridge.kernel[torch.from_numpy(split.train)].numpy()
    strength = fit.penalty * np.linalg.eigvalsh(kernel)[-1]
    predicted = kernel @ np.linalg.solve(kernel + strength * np.eye(len(kernel)), targets[split.train])
    expected = np.linalg.svd(predicted)[2][:4]
    np.testing.assert_allclose(np.abs((axes * expected).sum(axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(axes @ axes.T, np.eye(4), atol=1e-8)


def test_penalties_of_single_slots_are_weakened_together_until_their_average_predicts_best() -> None:
    """Against dense ridges of every slot under every penalty, and all their averages."""
    pooled, targets, split = make_data(signal=0.4)
    rng = np.random.default_rng(3)
    noisy = [(model + model.std() * rng.standard_normal(model.shape)).astype(np.float32) for model in pooled]
    statistics = [measure_slot(features, split.train) for _, _, features in iterate_slots(noisy)]
    wanted, validation = (
        torch.from_numpy(targets[rows].astype(np.float64)) for rows in (split.train, split.validation)
    )
    weights, average, validation_average = fit_slots_to_axes(noisy, statistics, split, wanted, validation)
    slots, chosen = [], []
    for own, (_, _, features) in zip(statistics, iterate_slots(noisy), strict=True):
        x = (features.astype(np.float64) - own.mean) / own.spread
        kernel = x[split.train].T @ x[split.train]
        strength = np.linalg.eigvalsh(kernel)[-1]
        slots.append((x, [
            np.linalg.solve(kernel + penalty * strength * np.eye(len(kernel)), x[split.train].T @ targets[split.train])
            if np.isfinite(penalty) else np.zeros((len(kernel), targets.shape[1])) for penalty in PENALTIES
        ]))  # fmt: skip
        errors = [np.square(x[split.validation] @ map_ - targets[split.validation]).sum() for map_ in slots[-1][1]]
        chosen.append(int(np.argmin(errors)))
    best = (np.inf, 0)
    for steps in range(len(PENALTIES)):
        at = [own if own == len(PENALTIES) - 1 else max(0, own - steps) for own in chosen]
        predicted = np.mean([x[split.validation] @ maps[own] for (x, maps), own in zip(slots, at, strict=True)], axis=0)
        best = min(best, (float(np.square(predicted - targets[split.validation]).sum()), steps))
    assert best[1] > 0
    at = [own if own == len(PENALTIES) - 1 else max(0, own - best[1]) for own in chosen]
    for rows, ours in ((split.train, average), (split.validation, validation_average)):
        expected = np.mean([x[rows] @ maps[own] for (x, maps), own in zip(slots, at, strict=True)], axis=0)
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    for weight, own, (_, maps), penalty in zip(weights, statistics, slots, at, strict=True):
        np.testing.assert_allclose(weight * own.spread, maps[penalty], atol=1e-4 * np.abs(maps[penalty]).max())


def test_there_are_no_more_axes_than_the_features_can_predict() -> None:
    pooled, targets, split = make_data(signal=2.0)
    begun = start(pooled, targets, split, universal_dim=12)
    assert begun.n_axes == 5
    assert not begun.readout[5:].any()
    assert all(weight[:, :, 5:].any() for weight in begun.weights)


def test_every_slot_and_their_average_predict_the_responses_from_the_start() -> None:
    pooled, targets, split = make_data(signal=3.0)
    begun = start(pooled, targets, split, universal_dim=12)
    assert begun.shrunk == 1
    centred = [torch.from_numpy(model - model[:, split.train].mean(axis=1, keepdims=True)) for model in pooled]
    slots = [(model[layer : layer + 1], weight[layer : layer + 1])
             for model, weight in zip(centred, begun.weights, strict=True) for layer in range(2)]  # fmt: skip
    for features, weights in [(centred, begun.weights), *(([one], [weight]) for one, weight in slots)]:
        predicted = (average_slots(features, weights) @ begun.readout).numpy()[split.test]
        error = np.square(predicted - targets[split.test]).sum() / np.square(targets[split.test]).sum()
        assert error < 0.2


def test_what_no_slot_can_predict_alone_is_fitted_jointly() -> None:
    _, _, split = make_data(signal=0.0)
    rng = np.random.default_rng(1)
    latent, nuisance = rng.standard_normal((150, 4)), rng.standard_normal((150, 4)) * 5
    # The nuisance cancels between the two slots and drowns the latent in each.
    pooled = [
        (np.stack([latent + nuisance])).astype(np.float32),
        (np.stack([latent - nuisance]) * 7).astype(np.float32),
    ]
    targets = (latent @ rng.standard_normal((4, 20))).astype(np.float32)
    targets -= targets[split.train].mean(axis=0)
    begun = start(pooled, targets, split, universal_dim=8)
    assert begun.validation_r2[0] < 0.2
    assert begun.validation_r2[1] > 0.95
    centred = [torch.from_numpy(model - model[:, split.train].mean(axis=1, keepdims=True)) for model in pooled]
    predicted = (average_slots(centred, begun.weights) @ begun.readout).numpy()[split.test]
    error = np.square(predicted - targets[split.test]).sum() / np.square(targets[split.test]).sum()
    assert error < 0.05


def test_at_most_half_the_channels_read_the_responses() -> None:
    pooled, targets, split = make_data(signal=2.0)
    begun = start(pooled, targets, split, universal_dim=6)
    assert begun.n_axes == 3
    assert not begun.readout[3:].any()


def test_the_other_channels_keep_distances_within_a_slot_and_their_share_of_the_length() -> None:
    pooled, targets, split = make_data(signal=2.0)
    begun = start(pooled, targets, split, universal_dim=20)
    for features, weight in zip(pooled, begun.weights, strict=True):
        for layer in range(2):
            rows = (features[layer, split.train] - features[layer, split.train].mean(axis=0)).astype(np.float64)
            read, kept = (rows @ part for part in np.split(weight[layer].numpy().astype(np.float64), [5], axis=1))
            size = np.square(kept).sum() / np.square(rows).sum()
            np.testing.assert_allclose(kept @ kept.T, size * rows @ rows.T, atol=1e-4 * np.abs(kept @ kept.T).max())
            share = np.square(kept).sum() / (np.square(kept).sum() + np.square(read).sum())
            np.testing.assert_allclose(share, OWN_SHARE, atol=1e-3)


def test_leading_directions_are_principal_axes_and_no_more_than_there_are() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 6)) * [5, 4, 3, 2, 1, 0.5]).float()
    few, many = (find_leading_directions(rows, n_channels=count) for count in (3, 9))
    kept = float((rows @ few).square().sum())
    np.testing.assert_allclose(kept, float(torch.linalg.eigvalsh(rows.T @ rows)[-3:].sum()), rtol=1e-4)
    np.testing.assert_allclose(many[:, :6].T @ many[:, :6], np.eye(6), atol=1e-5)
    assert not many[:, 6:].any()


def test_without_a_relation_to_the_responses_the_readout_is_shrunk_to_almost_nothing() -> None:
    pooled, targets, split = make_data(signal=0.0)
    begun = start(pooled, targets, split, universal_dim=12)
    assert begun.shrunk < 1
    centred = [torch.from_numpy(model - model[:, split.train].mean(axis=1, keepdims=True)) for model in pooled]
    predicted = (average_slots(centred, begun.weights) @ begun.readout).numpy()[split.test]
    assert np.square(predicted).mean() < 0.1 * np.square(targets[split.test]).mean()
    assert all(weight.any() for weight in begun.weights)


def test_a_weak_but_real_relation_is_kept_in_part() -> None:
    """Few images, so that the validation images cannot be sure: the start is shrunk, and still better than the mean."""
    gains = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        latent = rng.standard_normal((60, 5))
        pooled = [np.stack([latent @ rng.standard_normal((5, 8)) for _ in range(2)]).astype(np.float32)]
        targets = 0.6 * latent @ rng.standard_normal((5, 20)) + 2 * rng.standard_normal((60, 20))
        split = split_images(60, validation_share=0.15, test_share=0.3, seed=seed)
        targets = ((targets - targets[split.train].mean(axis=0)) / targets[split.train].std(axis=0)).astype(np.float32)
        begun = start(pooled, targets, split, universal_dim=12)
        centred = [torch.from_numpy(model - model[:, split.train].mean(axis=1, keepdims=True)) for model in pooled]
        predicted = (average_slots(centred, begun.weights) @ begun.readout).numpy()[split.test]
        measured = targets[split.test]
        gains.append(1 - np.square(measured - predicted).sum() / np.square(measured).sum())
    assert np.mean(gains) > 0


def start_inside(turn: bool, *, signal: float = 3.0) -> tuple[AlignmentStart, np.ndarray, np.ndarray, ImageSplit]:
    """Start from maps to six channels; returns their averages over slots, (images, 6), and the targets too."""
    pooled, targets, split = make_data(signal=signal)
    rng = np.random.default_rng(2)
    weights = [torch.from_numpy(rng.standard_normal((2, width, 6)).astype(np.float32)) for width in (8, 6)]
    weights[1] *= 100
    statistics = [measure_slot(features, split.train) for _, _, features in iterate_slots(pooled)]
    begun = start_from_consensus(pooled, statistics, weights, targets, split, turn=turn, voxels_per_block=7)
    if not turn:
        assert all(torch.equal(found, given) for found, given in zip(begun.weights, weights, strict=True))
    return begun, average_channels(pooled, begun, split), targets, split


def average_channels(pooled: list[np.ndarray], begun: AlignmentStart, split: ImageSplit) -> np.ndarray:
    """Mean over slots of the mapped features, less their mean over the training images; a loop over slots."""
    mapped = [
        (features - features[split.train].mean(axis=0)).astype(np.float64) @ begun.weights[at][layer].double().numpy()
        for at, layer, features in iterate_slots(pooled)
    ]
    return np.mean(mapped, axis=0)


def test_the_readout_of_a_consensus_is_the_ridge_from_its_channels_averaged_over_slots() -> None:
    begun, channels, targets, split = start_inside(turn=False)
    x, y = channels[split.train], targets[split.train].astype(np.float64)
    largest = np.linalg.eigvalsh(x.T @ x)[-1]
    best, lowest = np.zeros((6, targets.shape[1])), np.inf
    for penalty in PENALTIES:
        if 0 < penalty < np.inf:
            beta = np.linalg.solve(x.T @ x + penalty * largest * np.eye(6), x.T @ y)
            error = np.square(targets[split.validation] - channels[split.validation] @ beta).sum()
            best, lowest = (beta, error) if error < lowest else (best, lowest)
    np.testing.assert_allclose(channels @ begun.readout.double().numpy(), channels @ best, rtol=0, atol=5e-3)
    assert 1 - np.square(channels @ best - targets)[split.test].mean() > 0.7


def test_turning_a_consensus_changes_no_prediction_and_puts_what_predicts_first() -> None:
    plain, channels, _, _ = start_inside(turn=False)
    turned, others, _, _ = start_inside(turn=True)
    predicted = channels @ plain.readout.double().numpy()
    np.testing.assert_allclose(others @ turned.readout.double().numpy(), predicted, rtol=0, atol=1e-4)
    sizes = turned.readout.norm(dim=1).numpy()
    # The latent has five dimensions, so a sixth channel predicts nothing.
    assert (np.diff(sizes) < 0).all()
    assert sizes[5] < 0.05 * sizes[0]
    overlap = turned.readout @ turned.readout.T
    np.testing.assert_allclose(overlap.numpy(), np.diag(np.diag(overlap.numpy())), atol=1e-4 * float(overlap.max()))
    for before, after in zip(plain.weights, turned.weights, strict=True):
        gains = torch.linalg.svdvals(torch.linalg.lstsq(before.reshape(-1, 6), after.reshape(-1, 6)).solution)
        np.testing.assert_allclose([gains.max() ** 2, gains.min() ** 2], [2, 1], atol=0.01)


def test_a_consensus_that_predicts_nothing_has_no_readout() -> None:
    begun, _, _, _ = start_inside(turn=True, signal=0.0)
    assert begun.shrunk == 0 or begun.readout.abs().max() < 0.3
    assert torch.isfinite(torch.cat([weight.flatten() for weight in begun.weights])).all()


def test_a_random_start_has_the_sizes_of_a_network_and_a_seed() -> None:
    pooled, _, split = make_data(signal=1.0)
    statistics = [measure_slot(features, split.train) for _, _, features in iterate_slots(pooled)]
    first, again, other = (
        start_at_random(statistics, [2, 2], n_voxels=7, universal_dim=12, seed=seed) for seed in (0, 0, 1)
    )
    assert [tuple(weight.shape) for weight in first.weights] == [(2, 8, 12), (2, 6, 12)]
    assert first.readout.shape == (12, 7)
    assert all(torch.equal(a, b) for a, b in zip(first.weights, again.weights, strict=True))
    assert not torch.equal(first.readout, other.readout)
    for number, (model, layer, features) in enumerate(iterate_slots(pooled)):
        mapped = (features - statistics[number].mean) @ first.weights[model][layer].numpy()
        assert 0.2 < np.square(mapped).sum(axis=1).mean() < 5
