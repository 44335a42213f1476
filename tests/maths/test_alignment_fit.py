from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.alignment_fit import (
    AlignmentFit,
    EpochRecord,
    FitSettings,
    FitState,
)
from aligncut_cli.maths.alignment_losses import compute_eigen_loss
from aligncut_cli.maths.alignment_start import AlignmentStart, start_at_random, start_from_responses
from aligncut_cli.maths.centring import CentredMaps
from aligncut_cli.maths.control_targets import draw_random_targets
from aligncut_cli.maths.encoding import AlignmentMaps, iterate_slots, predict_from_pooled
from aligncut_cli.maths.response_scores import score_r2
from aligncut_cli.maths.response_units import restore_units, standardize_responses
from aligncut_cli.maths.ridge import choose_penalty, decompose_kernels, measure_slot
from aligncut_cli.maths.split_images import ImageSplit, split_images

CPU = torch.device("cpu")
CEILING = 0.8
SETTINGS = FitSettings(
    lambda_eigen=1.0, lambda_zero=0.01, lambda_cov=0.01, n_nodes=60, n_kept=4, batch_images=64, epochs=12,
    patience=5, tolerance=0.005, select="r2", learning_rate=3e-3, weight_decay=0.1, seed=0,
)  # fmt: skip


def plant() -> tuple[list[np.ndarray], np.ndarray, ImageSplit]:
    """Slots that are random maps of one latent space, of another width per model, and responses linear in it.

    returns : tokens per model (layers, images, tokens, D_i), responses (images, voxels), split
    """
    rng = np.random.default_rng(0)
    centres, labels = rng.standard_normal((5, 10)) * 1.5, rng.integers(5, size=(600, 6))
    latent = centres[labels] + 0.7 * rng.standard_normal((600, 6, 10))
    latent -= latent.mean(axis=(0, 1))
    tokens = [
        np.stack([latent @ rng.standard_normal((10, width)) + 3 * rng.standard_normal(width) for _ in range(2)])
        for width in (20, 14)
    ]  # a mean that is no part of what varies, as in real features
    tokens = [model.astype(np.float32) for model in tokens]
    signal = latent.mean(axis=1) @ rng.standard_normal((10, 40))
    noise = rng.standard_normal(signal.shape) * np.sqrt((1 - CEILING) / CEILING)
    responses = (3 * (signal / signal.std(axis=0) + noise) + 10).astype(np.float32)
    return tokens, responses, split_images(600, validation_share=0.15, test_share=0.15, seed=0)


def prepare(
    tokens: list[np.ndarray], responses: np.ndarray, split: ImageSplit, settings: FitSettings = SETTINGS,
    *, state: FitState | None = None, centre: bool = True, random: bool = False,
) -> tuple[AlignmentFit, np.ndarray, np.ndarray]:  # fmt: skip
    """A fit ready to run, and the mean and deviation of the responses."""
    pooled = [model.mean(axis=2) for model in tokens]
    targets = responses.copy()
    mean, deviation = standardize_responses(targets, split.train)
    statistics = [measure_slot(features, split.train) for _, _, features in iterate_slots(pooled)]
    nodes, validation_nodes = flatten(tokens, split.train), flatten(tokens, split.validation)
    first: AlignmentStart | FitState
    if random:
        first = start_at_random(statistics, [2, 2], n_voxels=targets.shape[1], universal_dim=24, seed=0)
    elif state is None:
        ridge = decompose_kernels(pooled, statistics, split.train, equalize=[True], device=CPU)[0]
        chosen = choose_penalty(ridge, targets, split, voxels_per_block=64)
        first = start_from_responses(
            pooled, statistics, chosen, targets, split, nodes, universal_dim=24, voxels_per_block=64
        )
    else:
        first = state
    centring = [
        CentredMaps.of(
            list(torch.from_numpy(rows.mean(axis=1, dtype=np.float64))),
            [torch.from_numpy(np.cov(slot.T)) for slot in rows],
        )
        for rows in nodes
    ]
    fit = AlignmentFit(
        pooled, targets, nodes, validation_nodes, statistics, split, first, settings,
        device=CPU, centring=centring if centre else None,
    )  # fmt: skip
    return fit, mean, deviation


def flatten(tokens: list[np.ndarray], images: np.ndarray) -> list[np.ndarray]:
    return [model[:, images].reshape(len(model), -1, model.shape[-1]) for model in tokens]


def run(*arguments: object, **more: object) -> tuple[AlignmentMaps, AlignmentFit]:
    fit, mean, deviation = prepare(*arguments, **more)  # type: ignore[arg-type]
    while not fit.finished:
        fit.run_epoch()
    return restore_units(fit.best, mean, deviation), fit


def score(tokens: list[np.ndarray], responses: np.ndarray, split: ImageSplit, maps: AlignmentMaps) -> float:
    pooled = [torch.from_numpy(model.mean(axis=2)[:, split.test]) for model in tokens]
    return float(score_r2(predict_from_pooled(pooled, maps).numpy(), responses[split.test]).mean())


def compare_slots(tokens: list[np.ndarray], split: ImageSplit, maps: AlignmentMaps) -> float:
    """Mean cosine similarity of the same token between different slots."""
    mapped = []
    for nodes, weights in zip(flatten(tokens, split.test), maps.weights, strict=True):
        mapped += [torch.from_numpy(slot) @ weight for slot, weight in zip(nodes, weights, strict=True)]
    pairs = [(i, j) for i in range(len(mapped)) for j in range(i)]
    return float(np.mean([torch.cosine_similarity(mapped[i], mapped[j]).mean() for i, j in pairs]))


def distort(tokens: list[np.ndarray], split: ImageSplit, maps: AlignmentMaps) -> float:
    losses = []
    for nodes, weights in zip(flatten(tokens, split.test), maps.weights, strict=True):
        before = torch.from_numpy(nodes[:, :150])
        losses.append(float(compute_eigen_loss(before, before @ weights, n_kept=4)))
    return float(np.mean(losses))


@pytest.fixture(scope="module")
def world() -> tuple[list[np.ndarray], np.ndarray, ImageSplit]:
    return plant()


@pytest.fixture(scope="module")
def aligned(world: tuple[list[np.ndarray], np.ndarray, ImageSplit]) -> tuple[AlignmentMaps, AlignmentFit]:
    return run(*world)


def test_a_planted_space_is_found(
    world: tuple[list[np.ndarray], np.ndarray, ImageSplit], aligned: tuple[AlignmentMaps, AlignmentFit]
) -> None:
    tokens, responses, split = world
    assert score(tokens, responses, split, aligned[0]) > 0.95 * CEILING
    assert compare_slots(tokens, split, aligned[0]) > 0.7


def test_random_targets_align_nothing(world: tuple[list[np.ndarray], np.ndarray, ImageSplit]) -> None:
    tokens, responses, split = world
    targets = draw_random_targets(responses, np.arange(len(responses)), seed=0)
    for random in (False, True):
        maps, _ = run(tokens, targets, split, random=random)
        assert score(tokens, targets, split, maps) < 0.02
        assert abs(compare_slots(tokens, split, maps)) < 0.25


def test_the_eigen_constraint_preserves_the_leading_eigenvectors(
    world: tuple[list[np.ndarray], np.ndarray, ImageSplit], aligned: tuple[AlignmentMaps, AlignmentFit]
) -> None:
    tokens, responses, split = world
    free, _ = run(tokens, responses, split, replace(SETTINGS, lambda_eigen=0.0))
    assert distort(tokens, split, aligned[0]) < 0.6 * distort(tokens, split, free)
    assert score(tokens, responses, split, free) > 0.95 * CEILING


def test_the_loss_falls_and_the_kept_state_is_the_one_that_its_record_names(
    aligned: tuple[AlignmentMaps, AlignmentFit],
) -> None:
    history, best = aligned[1].history, aligned[1].best_record
    assert [record.epoch for record in history] == list(range(len(history)))
    assert best.validation_loss < history[0].validation_loss
    assert best.validation_r2 >= max(record.validation_r2 for record in history) - SETTINGS.tolerance
    assert [record for record in history if record.kept][-1] == best
    assert history[0].brain is None
    assert (history[-1].brain or 0) < 1


def test_the_mapped_tokens_of_the_training_images_have_mean_zero_after_every_step() -> None:
    """Features with a large mean: the paper's soft term leaves it, the constraint does not."""
    tokens, responses, split = plant()
    tokens = [model + np.float32(5) for model in tokens]
    shares = {}
    for centre in (True, False):
        fit, _, _ = prepare(tokens, responses, split, replace(SETTINGS, epochs=2), centre=centre)
        while not fit.finished:
            fit.run_epoch()
            largest = 0.0
            for rows, weights in zip(flatten(tokens, split.train), fit.best.weights, strict=True):
                for slot, weight in zip(rows, weights, strict=True):
                    mapped = slot.astype(np.float64) @ weight.numpy().astype(np.float64)
                    rms = np.sqrt(np.square(mapped).sum(axis=1).mean())
                    largest = max(largest, float(np.linalg.norm(mapped.mean(axis=0)) / rms))
            shares.setdefault(centre, []).append(largest)
    assert max(shares[True]) < 1e-5
    assert min(shares[False]) > 0.1


def test_selecting_by_the_loss_keeps_the_lowest_state(world: tuple[list[np.ndarray], np.ndarray, ImageSplit]) -> None:
    _, fit = run(*world, replace(SETTINGS, select="loss", epochs=6))
    assert fit.best_record == min(fit.history, key=lambda record: record.validation_loss)
    assert fit.lowest_record.validation_loss == fit.best_record.validation_loss


def test_a_resumed_fit_has_the_same_bytes(world: tuple[list[np.ndarray], np.ndarray, ImageSplit]) -> None:
    settings = replace(SETTINGS, epochs=4)
    whole, _, _ = prepare(*world, settings)
    first, _, _ = prepare(*world, settings)
    for _ in range(2):
        whole.run_epoch()
        first.run_epoch()
    saved = first.state()
    state = FitState({name: tensor.clone() for name, tensor in saved.tensors.items()}, dict(saved.record))
    first.run_epoch()
    resumed, _, _ = prepare(*world, settings, state=state)
    for fit in (whole, resumed):
        while not fit.finished:
            fit.run_epoch()
    assert whole.history == resumed.history
    for a, b in zip([*whole.best.weights, whole.best.readout, whole.best.bias],
                    [*resumed.best.weights, resumed.best.readout, resumed.best.bias], strict=True):  # fmt: skip
        assert torch.equal(a, b)
    for name, tensor in whole.state().tensors.items():
        assert torch.equal(tensor, resumed.state().tensors[name])


def test_features_of_any_scale_are_fitted_alike(
    world: tuple[list[np.ndarray], np.ndarray, ImageSplit], aligned: tuple[AlignmentMaps, AlignmentFit]
) -> None:
    tokens, responses, split = world
    scaled = [tokens[0] * np.float32(1e-5), tokens[1] * np.float32(1e3)]
    maps, _ = run(scaled, responses, split)
    assert abs(score(scaled, responses, split, maps) - score(tokens, responses, split, aligned[0])) < 0.01


def test_the_bias_makes_the_mean_training_response_exact(
    world: tuple[list[np.ndarray], np.ndarray, ImageSplit], aligned: tuple[AlignmentMaps, AlignmentFit]
) -> None:
    tokens, responses, split = world
    pooled = [torch.from_numpy(model.mean(axis=2)[:, split.train]) for model in tokens]
    predicted = predict_from_pooled(pooled, aligned[0]).numpy()
    np.testing.assert_allclose(predicted.mean(axis=0), responses[split.train].mean(axis=0), atol=1e-3)


def test_early_stopping_counts_epochs_without_a_better_state(
    world: tuple[list[np.ndarray], np.ndarray, ImageSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, _, _ = prepare(*world, replace(SETTINGS, epochs=20, patience=2, tolerance=0.01))
    r2 = iter([0.70, 0.695, 0.5, 0.72, 0.715, 0.5, 0.5, 0.9])
    loss = iter([0.9, 0.8, 0.1, 2.0, 1.9, 0.1, 0.1, 0.1])
    monkeypatch.setattr(fit, "_watch", lambda epoch, terms: EpochRecord(
        epoch, 0.0, 0.0, 0.0, 0.0, next(r2), 0.0, 0.0, 0.0, 0.0, next(loss), False))  # fmt: skip
    fit.history, fit._best_record = [], None
    kept = []
    while not fit.finished:
        kept.append(fit.run_epoch().kept)
    assert kept == [True, True, False, True, True, False, False]
    assert fit.best_record.epoch == 4


def test_responses_are_scored_in_training_units_and_constant_voxels_are_left_alone() -> None:
    responses = np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32) * 4 + 9
    responses[:, 1] = 5
    original, train = responses.copy(), np.arange(20)
    mean, deviation = standardize_responses(responses, train)
    np.testing.assert_allclose(responses[train].std(axis=0), [1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(responses * deviation + mean, original, rtol=1e-5)


def test_too_few_tokens_for_the_eigenvectors_are_refused(
    world: tuple[list[np.ndarray], np.ndarray, ImageSplit],
) -> None:
    with pytest.raises(BadInput, match="too few for 60 eigenvectors"):
        prepare(*world, replace(SETTINGS, n_kept=60))
