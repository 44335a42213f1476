from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.consensus import Consensus, ConsensusSettings, fit_consensus
from aligncut_cli.maths.consensus_weights import estimate_overlap, weigh_slots
from aligncut_cli.maths.sampled_tokens import (
    SampledTokens,
    SlotRows,
    measure_position_means,
    remove_position_means_,
)
from aligncut_cli.maths.slot_ridge import RowReader
from aligncut_cli.maths.token_matching import average_matched, match_grid
from tests.planted_slots import (
    CPU,
    READER,
    decompose,
    largest_angle,
    lay_out,
    name_keys,
    plant_slots,
    take_images,
)

Array = NDArray[np.float64]
N_IMAGES, N_POSITIONS, N_LATENT = 100, 8, 4
IMAGES, POSITIONS = lay_out(N_IMAGES, N_POSITIONS)
TRAIN, VALIDATION = range(70), range(70, 100)
WIDTHS = (12, 9, 16, 10)


def make_latent(seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((len(IMAGES), N_LATENT)) * [2, 1.5, 1, 0.8]


def fit(
    slots: Sequence[Array],
    *,
    n_axes: int = 6,
    reader: RowReader = READER,
    tolerance: float = 1e-8,
    images: NDArray[np.int64] = IMAGES,
    positions: NDArray[np.int64] = POSITIONS,
) -> Consensus:
    train, validation = (take_images(slots, images, positions, part) for part in (TRAIN, VALIDATION))
    return fit_tokens(train, validation, n_axes=n_axes, reader=reader, tolerance=tolerance)


def fit_tokens(
    train: SampledTokens,
    validation: SampledTokens,
    *,
    n_axes: int = 6,
    reader: RowReader = READER,
    tolerance: float = 1e-8,
) -> Consensus:
    settings = ConsensusSettings(n_axes=n_axes, rounds=3, tolerance=tolerance, most_products=60, seed=0)
    return fit_consensus(decompose(train, reader), len(train), validation, settings)


def training_rows(values: Array) -> Array:
    rows = values[np.isin(IMAGES, TRAIN)]
    return rows - rows.mean(axis=0)


def test_shared_axes_are_recovered_in_order_and_private_ones_are_not() -> None:
    latent = make_latent()
    found = fit(plant_slots(latent, WIDTHS, seed=1))
    assert found.supported
    assert largest_angle(found.axes.axes[:, :N_LATENT].numpy(), training_rows(latent)) < 0.05
    shared = found.axes.shared.numpy()
    assert (shared[:N_LATENT] > 0.95).all()
    assert (shared[N_LATENT:] < 0.45).all()
    assert (np.diff(shared) <= 0).all()
    assert (found.validation_r2 > 0.9).all()
    np.testing.assert_allclose(found.weights.sum(), 1)


def test_maps_of_all_slots_give_the_same_token_the_same_features() -> None:
    latent = make_latent()
    slots = plant_slots(latent, WIDTHS, seed=1)
    found = fit(slots, n_axes=N_LATENT)
    held_out = np.isin(IMAGES, VALIDATION)
    mapped = [
        (values - values[~held_out].mean(axis=0))[held_out] @ weight.numpy()
        for values, weight in zip(slots, found.maps, strict=True)
    ]
    units = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in mapped]
    assert min(float((units[0] * unit).sum(axis=1).mean()) for unit in units) > 0.98
    expected = slots[0][~held_out] - slots[0][~held_out].mean(axis=0)
    predicted = expected @ found.maps[0].numpy()
    assert np.square(predicted - found.axes.axes.numpy()).mean() < 0.02


def test_the_order_of_the_slots_and_blocks_of_rows_change_nothing_beyond_rounding() -> None:
    """With rows in float64: to 1e-6. Of float16 rows, whose products are in float32, see the axes' test."""
    slots = plant_slots(make_latent(), WIDTHS, seed=1)
    order = [2, 0, 3, 1]
    first, moved, parts = fit(slots), fit([slots[i] for i in order]), fit(slots, reader=RowReader(CPU, 33))
    for other, where in ((moved, order), (parts, range(4))):
        np.testing.assert_array_equal(other.penalties, first.penalties[list(where)])
        np.testing.assert_allclose(other.weights, first.weights[list(where)], rtol=1e-6)
        np.testing.assert_allclose(other.axes.shared, first.axes.shared, atol=1e-9)
        np.testing.assert_allclose(other.axes.axes, first.axes.axes, atol=1e-5)
        for number, slot in enumerate(where):
            np.testing.assert_allclose(other.maps[number], first.maps[slot], atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(first.maps, fit(slots).maps, strict=True))


def test_rows_in_half_precision_give_the_same_consensus_to_their_precision() -> None:
    slots = plant_slots(make_latent(), WIDTHS, seed=1)
    exact, half = fit(slots), fit([values.astype(np.float16) for values in slots], tolerance=1e-4)
    np.testing.assert_allclose(half.weights, exact.weights, atol=1e-3)
    np.testing.assert_allclose(half.axes.shared[:N_LATENT], exact.axes.shared[:N_LATENT], atol=1e-3)
    np.testing.assert_allclose(half.axes.axes[:, :N_LATENT], exact.axes.axes[:, :N_LATENT], atol=0.02)


def test_a_slot_of_noise_gets_no_weight_and_harms_nobody() -> None:
    latent = make_latent()
    slots = plant_slots(latent, WIDTHS, seed=1)
    noise = np.random.default_rng(9).standard_normal((len(IMAGES), 14))
    without, found = fit(slots), fit([noise, *slots])
    assert found.weights[0] == 0
    assert found.penalties[0] == np.inf
    assert found.validation_r2[0] == 0
    assert not found.maps[0].any()
    np.testing.assert_allclose(found.axes.shared[:N_LATENT], without.axes.shared[:N_LATENT], atol=0.01)
    assert largest_angle(found.axes.axes[:, :N_LATENT].numpy(), without.axes.axes[:, :N_LATENT].numpy()) < 0.03


def test_a_noisier_slot_is_given_a_larger_penalty_and_less_weight() -> None:
    latent = make_latent()
    slots = plant_slots(latent, (12, 12, 12, 12), seed=1)
    poor = 0.1 * latent @ np.random.default_rng(5).standard_normal((N_LATENT, 30))
    poor += np.random.default_rng(6).standard_normal((len(IMAGES), 30))
    found = fit([*slots, poor])
    assert 0 < found.validation_r2[-1] < 0.6
    assert found.penalties[-1] > 10 * found.penalties[:-1].max()
    assert found.weights[-1] < found.weights[:-1].min()


def test_slots_with_nothing_in_common_are_said_to_have_nothing() -> None:
    slots = [np.random.default_rng([7, i]).standard_normal((len(IMAGES), 8)) for i in range(5)]
    found = fit(slots)
    assert not found.supported
    assert not found.validation_r2.any()
    assert (found.weights > 0).all()
    assert float(found.axes.shared[0]) < 0.5
    assert all(torch.isfinite(weight).all() for weight in found.maps)


def test_a_slot_given_many_times_counts_about_once() -> None:
    slots = plant_slots(make_latent(), WIDTHS, seed=1)
    rng = np.random.default_rng(3)
    copies = [slots[0] @ (np.eye(12) + 0.3 * rng.standard_normal((12, 12))) for _ in range(8)]
    found = fit([slots[0], *copies, *slots[1:]])
    assert 0.9 < found.weights[:9].sum() / found.weights[9:].mean() < 1.5
    once = fit(slots)
    assert largest_angle(found.axes.axes[:, :N_LATENT].numpy(), once.axes.axes[:, :N_LATENT].numpy()) < 0.05
    assert float(found.axes.shared[N_LATENT]) < 0.45


def test_overlap_is_that_of_the_projectors() -> None:
    slots = plant_slots(make_latent(), WIDTHS, seed=1)
    slots.append(slots[0] @ np.random.default_rng(0).standard_normal((12, 12)))
    tokens = take_images(slots, IMAGES, POSITIONS, range(N_IMAGES))
    penalties = np.array([1e-6, 1e-6, 1e-2, np.inf, 1e-9])
    overlap = estimate_overlap(decompose(tokens), penalties, len(tokens), seed=0)
    projectors = []
    for values, penalty in zip(slots, penalties, strict=True):
        centred = values - values.mean(axis=0)
        gram = centred.T @ centred
        largest = np.linalg.eigvalsh(gram)[-1]
        inside = np.zeros_like(gram)
        if penalty < np.inf:
            inside = np.linalg.inv(gram + penalty * largest * np.eye(len(gram)))
        projectors.append(centred @ inside @ centred.T)
    gram = np.array([[np.sum(a * b) for b in projectors] for a in projectors])
    size = np.where(gram.diagonal() > 0, np.sqrt(gram.diagonal()), 1)
    expected = gram / size[:, None] / size
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(overlap, expected, atol=0.1)
    assert overlap[0, 4] > 0.999
    assert not overlap[3, :3].any()


def test_weights_split_what_copies_have_and_follow_reliability() -> None:
    overlap = np.full((5, 5), 0.4)
    overlap[:3, :3] = 1
    np.fill_diagonal(overlap, 1)
    np.testing.assert_allclose(weigh_slots(overlap, np.ones(5)), [1 / 9] * 3 + [1 / 3] * 2)
    np.testing.assert_allclose(weigh_slots(overlap, np.array([1, 1, 1, 1, 0])), [1 / 6] * 3 + [1 / 2, 0])
    np.testing.assert_allclose(weigh_slots(np.ones((3, 3)), np.ones(3)), 1 / 3)
    np.testing.assert_allclose(weigh_slots(np.eye(3), np.array([1, 2, 1])), [0.25, 0.5, 0.25])


def test_class_tokens_that_some_slots_lack_are_shared_by_those_that_have_them() -> None:
    latent = make_latent()
    slots = plant_slots(latent, WIDTHS, seed=1, noise=0)

    def take(chosen: range) -> SampledTokens:
        tokens = take_images(slots, IMAGES, POSITIONS, chosen)
        places = np.flatnonzero(tokens.positions > 0)
        lacking = [SlotRows(slot.values[places], places) for slot in tokens.slots[2:]]
        return SampledTokens((*tokens.slots[:2], *lacking), tokens.images, tokens.positions)

    found = fit_tokens(take(TRAIN), take(VALIDATION))
    assert (found.axes.shared[:N_LATENT] > 0.99).all()
    assert largest_angle(found.axes.axes[:, :N_LATENT].numpy(), training_rows(latent)) < 0.05
    class_rows = POSITIONS[np.isin(IMAGES, TRAIN)] == 0
    axes = found.axes.axes[:, :N_LATENT].numpy()
    square = np.square(axes).mean(axis=1)
    assert 0.7 < square[class_rows].mean() / square[~class_rows].mean() < 1.4


def test_grids_of_different_size_agree_once_their_tokens_are_matched() -> None:
    """Smooth fields over the image, seen at the patch centres of two grids."""
    rng = np.random.default_rng(0)
    waves, phases = rng.uniform(-1.5, 1.5, (N_IMAGES, 3, 2)), rng.uniform(0, 6, (N_IMAGES, 3))

    def look(side: int) -> Array:
        centres = (np.arange(side) + 0.5) / side
        y, x = (axis.ravel() for axis in np.meshgrid(centres, centres, indexing="ij"))
        angle = waves[..., :1] * 2 * y + waves[..., 1:] * 2 * x + phases[..., None]
        return np.sin(2 * angle).transpose(0, 2, 1)

    match = match_grid((9, 9), (5, 5))
    fine = look(9)
    matched = average_matched(fine[:, match.index], match.weight)
    wrong = fine[:, :25]
    images, positions = lay_out(N_IMAGES, 25)
    coarse = plant_slots(look(5).reshape(-1, 3), (5,), seed=1)[0]
    pairs = [[coarse, plant_slots(other.reshape(-1, 3), (6,), seed=2)[0]] for other in (matched, wrong)]
    right, unmatched = (fit(pair, n_axes=3, images=images, positions=positions) for pair in pairs)
    assert (right.validation_r2 > 0.9).all()
    assert (unmatched.validation_r2 < 0.5).all()


def test_with_images_shuffled_per_slot_position_is_all_that_stays_and_it_can_be_taken_out() -> None:
    place = np.random.default_rng(8).standard_normal((N_POSITIONS, N_LATENT))
    place -= place.mean(axis=0)
    slots = plant_slots(np.concatenate([make_latent(), 2 * place[POSITIONS]], axis=1), (16, 14, 15), seed=1)

    def shuffled() -> tuple[SampledTokens, SampledTokens]:
        parts = [take_images(slots, IMAGES, POSITIONS, part) for part in (TRAIN, VALIDATION)]
        return tuple(part.shuffle_images(seed=0, keys=name_keys(3)) for part in parts)  # type: ignore[return-value]

    found = fit_tokens(*shuffled())
    assert found.supported
    positions = POSITIONS[np.isin(IMAGES, TRAIN)]
    axes = found.axes.axes.numpy()
    between = np.stack([axes[positions == p].mean(axis=0) for p in range(N_POSITIONS)])[positions].var(axis=0)
    assert (between[:N_LATENT] > 0.9).all()
    assert (between[N_LATENT:] < 0.3).all()
    train, validation = (take_images(slots, IMAGES, POSITIONS, part) for part in (TRAIN, VALIDATION))
    for slot, own in zip(train.slots, validation.slots, strict=True):
        means = measure_position_means(slot, train.positions, N_POSITIONS)
        remove_position_means_(slot, train.positions, means)
        remove_position_means_(own, validation.positions, means)
    content = fit_tokens(train, validation)
    latent = training_rows(make_latent())
    latent -= np.stack([latent[positions == p].mean(axis=0) for p in range(N_POSITIONS)])[positions]
    assert largest_angle(content.axes.axes[:, :N_LATENT].numpy(), latent) < 0.05
    nothing = fit_tokens(*(part.shuffle_images(seed=0, keys=name_keys(3)) for part in (train, validation)))
    assert not nothing.supported


def test_progress_counts_up_to_its_end() -> None:
    slots = plant_slots(make_latent(), WIDTHS, seed=1)
    train, validation = (take_images(slots, IMAGES, POSITIONS, part) for part in (TRAIN, VALIDATION))
    settings = ConsensusSettings(n_axes=4, rounds=2, tolerance=1e-4, most_products=60, seed=0)
    calls: list[tuple[int, int]] = []
    fit_consensus(decompose(train), len(train), validation, settings, progress=lambda *numbers: calls.append(numbers))
    done = [each[0] for each in calls]
    assert done == sorted(done)
    assert all(passed <= expected for passed, expected in calls)
    assert calls[-1][0] == calls[-1][1]


def test_too_few_slots_or_directions_are_refused() -> None:
    slots = plant_slots(make_latent(), WIDTHS, seed=1)
    with pytest.raises(BadInput, match="one layer of one model"):
        fit(slots[:1])
    with pytest.raises(BadInput, match="at most --universal-dim 21"):
        fit(slots[:2], n_axes=22)
