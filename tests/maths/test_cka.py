from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.cka import compute_canonical_correlations, compute_linear_cka
from aligncut_cli.maths.sampled_tokens import SampledTokens, SlotRows
from aligncut_cli.maths.slot_ridge import RowReader
from tests.planted_slots import CPU, READER, lay_out, name_keys, plant_slots

Array = NDArray[np.float64]
IMAGES, POSITIONS = lay_out(60, 5)


def make_slots() -> list[Array]:
    latent = np.random.default_rng(0).standard_normal((len(IMAGES), 4)) * [3, 2, 1, 1]
    return plant_slots(latent, (6, 9, 12), seed=1, private=0.5)


def as_tokens(slots: list[Array]) -> SampledTokens:
    return SampledTokens(tuple(SlotRows(values) for values in slots), IMAGES, POSITIONS)


def cka_from_second_moments(x: Array, y: Array) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.square(x.T @ y).sum() / np.sqrt(np.square(x.T @ x).sum() * np.square(y.T @ y).sum()))


def unbiased_hsic(k: Array, other: Array) -> float:
    """Song et al. 2012, Eq. 5, as it is printed."""
    n = len(k)
    k, other = k - np.diag(k.diagonal()), other - np.diag(other.diagonal())
    ones = np.ones(n)
    first = np.trace(k @ other)
    second = (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return float(first + second - 2 / (n - 2) * (ones @ k @ other @ ones)) / (n * (n - 3))


@pytest.mark.parametrize("side", [7, 64, 1000])
def test_cka_from_tiles_of_kernels_is_that_from_second_moments(side: int) -> None:
    slots = make_slots()
    found = compute_linear_cka(as_tokens(slots), debiased=False, reader=RowReader(CPU, side))
    expected = [[cka_from_second_moments(a, b) for b in slots] for a in slots]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("side", [7, 1000])
def test_debiased_cka_is_the_unbiased_estimate(side: int) -> None:
    slots = make_slots()
    kernels = [values @ values.T for values in slots]
    hsic = np.array([[unbiased_hsic(a, b) for b in kernels] for a in kernels])
    expected = hsic / np.sqrt(np.outer(hsic.diagonal(), hsic.diagonal()))
    found = compute_linear_cka(as_tokens(slots), debiased=True, reader=RowReader(CPU, side))
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_unrelated_slots_are_alike_by_chance_unless_it_is_taken_out() -> None:
    rng = np.random.default_rng(0)
    tokens = as_tokens([rng.standard_normal((len(IMAGES), 100)) for _ in range(4)])
    between = ~np.eye(4, dtype=bool)
    assert compute_linear_cka(tokens, debiased=False, reader=READER)[between].min() > 0.2
    assert np.abs(compute_linear_cka(tokens, debiased=True, reader=READER)[between]).max() < 0.03


def test_rotations_and_units_do_not_matter_to_cka_nor_any_invertible_map_to_canonical_correlation() -> None:
    slots = make_slots()
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    turned = as_tokens([slots[0], 5 * slots[0] @ rotation + 100, slots[0] @ rng.standard_normal((6, 6)) - 3])
    cka = compute_linear_cka(turned, debiased=False, reader=READER)
    assert cka[0, 1] > 1 - 1e-9
    assert cka[0, 2] < 0.99
    correlations = compute_canonical_correlations(turned, keep=1, most=100, reader=READER)
    np.testing.assert_allclose(correlations, 1, atol=1e-8)


def canonical_correlations(x: Array, y: Array, keep: float, most: int) -> float:
    """SVCCA by two SVDs and a third."""
    bases = []
    for values in (x, y):
        left, sizes, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
        share = np.cumsum(sizes**2) / np.sum(sizes**2)
        bases.append(left[:, : min(int((share < keep).sum()) + 1, most)])
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean())


@pytest.mark.parametrize(("keep", "most"), [(0.9, 100), (0.999, 100), (0.999, 3)])
def test_canonical_correlations_are_those_of_the_leading_components(keep: float, most: int) -> None:
    slots = make_slots()
    expected = [[canonical_correlations(a, b, keep, most) for b in slots] for a in slots]
    for reader in (READER, RowReader(CPU, 23)):
        found = compute_canonical_correlations(as_tokens(slots), keep=keep, most=most, reader=reader)
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_shuffled_images_are_the_baseline() -> None:
    tokens = as_tokens(make_slots())
    shuffled = tokens.shuffle_images(seed=0, keys=name_keys(3))
    for compare in (
        lambda each: compute_linear_cka(each, debiased=True, reader=READER),
        lambda each: compute_canonical_correlations(each, keep=0.95, most=4, reader=READER),
    ):
        assert compare(tokens)[0, 1:].min() > 0.5
        assert compare(shuffled)[0, 1:].max() < 0.2


def test_slots_are_compared_on_the_tokens_that_all_have() -> None:
    slots = make_slots()
    places = np.flatnonzero(POSITIONS > 0)
    mixed = SampledTokens(
        (SlotRows(slots[0]), SlotRows(slots[1][places], places), SlotRows(slots[2])), IMAGES, POSITIONS
    )
    expected = compute_linear_cka(
        SampledTokens(tuple(SlotRows(values[places]) for values in slots), IMAGES[places], POSITIONS[places]),
        debiased=False,
        reader=READER,
    )
    np.testing.assert_allclose(compute_linear_cka(mixed, debiased=False, reader=READER), expected, rtol=1e-10)


def test_constant_slots_are_like_none_and_half_precision_is_enough() -> None:
    slots = make_slots()
    constant = as_tokens([slots[0], np.ones((len(IMAGES), 3))])
    for matrix in (
        compute_linear_cka(constant, debiased=False, reader=READER),
        compute_linear_cka(constant, debiased=True, reader=READER),
        compute_canonical_correlations(constant, keep=0.99, most=5, reader=READER),
    ):
        np.testing.assert_allclose(matrix, np.eye(2), atol=1e-12)
    half = SampledTokens(tuple(SlotRows(values.astype(np.float16)) for values in slots), IMAGES, POSITIONS)
    found = compute_linear_cka(half, debiased=False, reader=READER)
    np.testing.assert_allclose(found, compute_linear_cka(as_tokens(slots), debiased=False, reader=READER), atol=2e-3)


def test_a_handful_of_tokens_is_refused() -> None:
    few = SampledTokens(tuple(SlotRows(values[:3]) for values in make_slots()), IMAGES[:3], POSITIONS[:3])
    with pytest.raises(BadInput, match="3 tokens are too few"):
        compute_linear_cka(few, debiased=False, reader=READER)
