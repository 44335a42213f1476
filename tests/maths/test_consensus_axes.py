from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from aligncut_cli.maths.consensus_axes import SharedAxes, SharedProjector, find_shared_axes
from aligncut_cli.maths.sampled_tokens import SampledTokens, SlotRows
from aligncut_cli.maths.slot_ridge import RowReader, SlotRidge, map_rows
from tests.planted_slots import CPU, READER, decompose, largest_angle, lay_out, plant_slots

Array = NDArray[np.float64]
WEIGHTS, PENALTIES = np.array([0.5, 0.2, 0.3]), np.array([1e-3, 0.1, 1e-6])


def make_tokens(*, without_class_token: bool) -> SampledTokens:
    """Three slots of 60 images; the last lacks the class token."""
    images, positions = lay_out(60, 4)
    latent = np.random.default_rng(0).standard_normal((240, 3)) * [2, 1, 0.7]
    latent[positions == 0] += 2
    slots = [SlotRows(values) for values in plant_slots(latent, (6, 9, 5), seed=1)]
    if without_class_token:
        places = np.flatnonzero(positions > 0)
        slots[2] = SlotRows(slots[2].values[places], places)
    return SampledTokens(tuple(slots), images, positions)


def solve_densely(tokens: SampledTokens, weights: Array, penalties: Array) -> tuple[Array, Array]:
    """The definition, with n x n matrices: eigenvalues, and eigenvectors of R^-1/2 (sum w P) R^-1/2."""
    n = len(tokens)
    total, present = np.zeros((n, n)), np.zeros(n)
    for slot, weight, penalty in zip(tokens.slots, weights, penalties, strict=True):
        places = np.arange(n) if slot.places is None else slot.places
        centred = slot.values - slot.values.mean(axis=0)
        gram = centred.T @ centred
        ridge = penalty * np.linalg.eigvalsh(gram)[-1] * np.eye(len(gram))
        total[np.ix_(places, places)] += weight * centred @ np.linalg.solve(gram + ridge, centred.T)
        present[places] += weight
    root = np.sqrt(present)
    values, vectors = np.linalg.eigh(total / root[:, None] / root)
    return values[::-1], vectors[:, ::-1] / root[:, None] * np.sqrt(present.sum())


def find(tokens: SampledTokens, n_axes: int, reader: RowReader = READER) -> SharedAxes:
    projector = SharedProjector(decompose(tokens, reader), WEIGHTS, PENALTIES, len(tokens))
    return find_shared_axes(projector, n_axes=n_axes, tolerance=1e-9, most_products=50, seed=0)


@pytest.mark.parametrize("without_class_token", [False, True])
def test_axes_are_the_eigenvectors_of_the_dense_matrix(without_class_token: bool) -> None:
    tokens = make_tokens(without_class_token=without_class_token)
    values, vectors = solve_densely(tokens, WEIGHTS, PENALTIES)
    found = find(tokens, 5)
    np.testing.assert_allclose(found.shared, values[:5], rtol=1e-9)
    present = np.where(tokens.positions > 0, 1.0, 0.7 if without_class_token else 1.0)[:, None]
    products = found.axes.numpy().T @ (present * vectors[:, :5]) / present.sum()
    np.testing.assert_allclose(np.abs(products), np.eye(5), atol=1e-5)
    assert largest_angle(found.axes.numpy(), vectors[:, :5]) < 1e-7
    assert found.residual <= 1e-9


def test_axes_have_mean_0_and_mean_square_1_over_the_tokens_as_the_slots_count_them() -> None:
    tokens = make_tokens(without_class_token=True)
    found = find(tokens, 4)
    present = np.where(tokens.positions > 0, 1.0, 0.7)[:, None]
    axes = found.axes.numpy()
    np.testing.assert_allclose((present * axes).sum(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(axes.T @ (present * axes) / present.sum(), np.eye(4), atol=1e-8)


def test_blocks_of_rows_change_nothing_and_a_repeat_gives_the_same_bytes() -> None:
    tokens = make_tokens(without_class_token=True)
    whole, parts, again = find(tokens, 4), find(tokens, 4, RowReader(CPU, 17)), find(tokens, 4)
    np.testing.assert_allclose(parts.axes, whole.axes, atol=1e-6)
    assert torch.equal(whole.axes, again.axes)


def test_a_basis_that_is_shortened_many_times_finds_the_same() -> None:
    """40 directions with slowly falling eigenvalues, searched with a basis of about twenty vectors."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((200, 40)) * np.linspace(1, 0.3, 40)
    slots = [shared @ rng.standard_normal((40, 40)) + rng.standard_normal((200, 40)) for _ in range(2)]
    images, positions = lay_out(50, 4)
    tokens = SampledTokens(tuple(SlotRows(values) for values in slots), images, positions)
    weights, penalties = np.array([0.5, 0.5]), np.array([1e-2, 1e-2])
    projector = SharedProjector(decompose(tokens), weights, penalties, 200)
    found = find_shared_axes(projector, n_axes=3, tolerance=1e-5, most_products=100, seed=0)
    values, vectors = solve_densely(tokens, weights, penalties)
    assert found.products > 4
    np.testing.assert_allclose(found.shared, values[:3], rtol=1e-7)
    assert largest_angle(found.axes.numpy(), vectors[:, :3]) < 1e-2


def test_a_search_that_is_cut_short_says_how_far_it_came() -> None:
    tokens = make_tokens(without_class_token=False)
    projector = SharedProjector(decompose(tokens), WEIGHTS, PENALTIES, len(tokens))
    found = find_shared_axes(projector, n_axes=5, tolerance=0, most_products=1, seed=0)
    assert found.products == 1
    assert found.residual > 1e-3
    assert found.axes.shape == (240, 5)


def test_as_many_axes_as_there_are_directions_can_be_asked_for() -> None:
    tokens = make_tokens(without_class_token=False)
    found = find(tokens, 20)
    np.testing.assert_allclose(found.shared, solve_densely(tokens, WEIGHTS, PENALTIES)[0][:20], atol=1e-8)
    assert torch.isfinite(found.axes).all()


def test_half_precision_rows_give_what_their_values_give() -> None:
    tokens = make_tokens(without_class_token=False)
    half = SampledTokens(
        tuple(SlotRows(slot.values.astype(np.float16)) for slot in tokens.slots), tokens.images, tokens.positions
    )
    exact = SampledTokens(
        tuple(SlotRows(slot.values.astype(np.float64)) for slot in half.slots), tokens.images, tokens.positions
    )
    projectors = [SharedProjector(decompose(each), WEIGHTS, PENALTIES, 240) for each in (half, exact)]
    a, b = (find_shared_axes(each, n_axes=3, tolerance=1e-5, most_products=50, seed=0) for each in projectors)
    np.testing.assert_allclose(a.shared, b.shared, atol=1e-4)
    np.testing.assert_allclose(a.axes, b.axes, atol=1e-2)


def test_a_slots_map_is_sklearns_ridge() -> None:
    tokens = make_tokens(without_class_token=True)
    slot = SlotRidge.of(tokens.slots[2], RowReader(CPU, 50))
    targets = torch.randn(240, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, places = tokens.slots[2].values, tokens.slots[2].places
    assert places is not None
    alpha = 0.01 * len(rows) * float(slot.eigenvalues[-1])
    model = Ridge(alpha=alpha).fit(rows, targets[places].numpy())
    weight = slot.solve(slot.correlate(targets), 0.01)
    np.testing.assert_allclose(weight.T, model.coef_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(slot.covariance, np.cov(rows.T, bias=True), atol=1e-10)
    for at, mapped in map_rows(tokens.slots[2], weight, slot.mean, slot.reader):
        assert isinstance(at, torch.Tensor)
        expected = model.predict(rows[np.isin(places, at.numpy())]) - model.predict(rows).mean(axis=0)
        np.testing.assert_allclose(mapped, expected, atol=1e-8)


@pytest.mark.parametrize("penalty", [0.0, float("inf")])
def test_without_a_finite_penalty_a_slot_maps_to_nothing(penalty: float) -> None:
    slot = decompose(make_tokens(without_class_token=False))[0]
    assert not slot.solve(torch.ones(6, 2, dtype=torch.float64), penalty).any()


def test_a_constant_slot_takes_no_part() -> None:
    tokens = make_tokens(without_class_token=False)
    flat = SampledTokens((*tokens.slots[:2], SlotRows(np.ones((240, 5)))), tokens.images, tokens.positions)
    found = find(flat, 3)
    assert torch.isfinite(found.axes).all()
    assert float(found.shared[0]) < 0.71
