from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.sampled_tokens import (
    SampledTokens,
    SlotRows,
    choose_tokens,
    exchange_images,
    measure_position_means,
    remove_position_means_,
)
from aligncut_cli.maths.sampling import stable_hash
from tests.planted_slots import lay_out, name_keys


def make_keys(names: list[str]) -> np.ndarray:
    return np.array([stable_hash(0, name) for name in names], dtype=np.uint64)


@pytest.mark.parametrize(("n_images", "n_tokens"), [(40, 400), (7, 60), (40, 10), (1, 5), (3, 10_000)])
def test_tokens_are_spread_evenly_over_images_and_positions(n_images: int, n_tokens: int) -> None:
    images, positions = choose_tokens(make_keys([f"i{k}" for k in range(n_images)]), 17, n_tokens, seed=0)
    assert len(images) == len(positions)
    assert 0.5 * min(n_tokens, n_images * 17) <= len(images) <= n_tokens
    per_image = np.bincount(images)
    assert len(np.unique(per_image[per_image > 0])) == 1
    pairs = images * 17 + positions
    assert (np.diff(pairs) > 0).all()
    if n_images == 40 and n_tokens == 400:
        per_position = np.bincount(positions, minlength=17)
        assert per_position.min() > 0
        assert per_position.max() <= 2 * per_position.min()


def test_the_images_order_does_not_change_which_tokens_are_drawn() -> None:
    names = [f"i{k}" for k in range(30)]
    forward, backward = make_keys(names), make_keys(names[::-1])
    a = choose_tokens(forward, 17, 200, seed=0)
    b = choose_tokens(backward, 17, 200, seed=0)
    assert {(names[i], p) for i, p in zip(*a, strict=True)} == {(names[29 - i], p) for i, p in zip(*b, strict=True)}
    assert any(not np.array_equal(x, y) for x, y in zip(a, choose_tokens(forward, 17, 200, seed=1), strict=True))


def test_whole_images_are_exchanged_and_positions_kept() -> None:
    images, positions = choose_tokens(make_keys([f"i{k}" for k in range(30)]), 17, 150, seed=0)
    order = exchange_images(images, positions, seed=0, key=3)
    assert np.array_equal(np.sort(order), np.arange(len(images)))
    assert np.array_equal(positions[order], positions)
    stand_ins = [np.unique(images[order][images == image]) for image in np.unique(images)]
    assert all(len(each) == 1 for each in stand_ins)
    assert not (images[order] == images).any()
    assert not np.array_equal(order, exchange_images(images, positions, seed=0, key=4))


def test_tokens_of_images_with_positions_of_their_own_are_exchanged_position_by_position() -> None:
    images, positions = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 4, 4, 5, 0, 5])
    order = exchange_images(images, positions, seed=0, key=3)
    assert np.array_equal(positions[order], positions)
    assert not (images[order] == images).any()
    lonely = exchange_images(np.array([0, 1]), np.array([0, 1]), seed=0, key=3)
    assert np.array_equal(lonely, [0, 1])


def test_a_slot_without_class_token_exchanges_the_rows_that_it_has() -> None:
    images, positions = lay_out(6, 4)
    whole = np.stack([images, positions], axis=1).astype(np.float32)
    places = np.flatnonzero(positions > 0)
    tokens = SampledTokens((SlotRows(whole), SlotRows(whole[places], places)), images, positions)
    shuffled = tokens.shuffle_images(seed=0, keys=name_keys(2))
    first, second = (slot.read(slice(None)) for slot in shuffled.slots)
    assert np.array_equal(first[:, 1], positions)
    assert not (first[:, 0] == images).any()
    assert np.array_equal(second[:, 1], positions[places])
    assert not (second[:, 0] == images[places]).any()
    assert len(np.unique(np.stack([images[places], second[:, 0]], axis=1), axis=0)) == 6
    assert np.shares_memory(shuffled.slots[0].values, whole)
    twice = shuffled.shuffle_images(seed=1, keys=name_keys(2)).slots[0].read(slice(3, 9))
    assert np.array_equal(twice[:, 1], positions[3:9])
    common = shuffled.keep_common()
    assert np.array_equal(common.positions, positions[places])
    assert np.array_equal(common.slots[0].read(slice(None)), first[places])
    assert np.array_equal(common.slots[1].read(slice(None)), second)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match="slot 1 has 3 rows for 4"):
        SampledTokens((SlotRows(np.zeros((4, 2))), SlotRows(np.zeros((3, 2)))), np.arange(4), np.arange(4))
    with pytest.raises(BadInput, match="4 images and 3 positions"):
        SampledTokens((), np.arange(4), np.arange(3))
    images, positions = lay_out(4, 2)
    places = np.array([0, 1, 2, 4, 6])
    ragged = SampledTokens((SlotRows(np.zeros((5, 2)), places),), images, positions)
    with pytest.raises(BadInput, match="some images only"):
        ragged.shuffle_images(seed=0, keys=name_keys(1))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_taking_out_the_positions_means_leaves_none(dtype: type) -> None:
    rng = np.random.default_rng(0)
    _, positions = lay_out(50, 6)
    kept = positions > 0
    place = rng.standard_normal((6, 3)) * 5
    values = (place[positions] + rng.standard_normal((300, 3)))[kept].astype(dtype)
    slot = SlotRows(values, np.flatnonzero(kept))
    means = measure_position_means(slot, positions, 6)
    expected = [values[positions[kept] == p].astype(np.float64).mean(axis=0) for p in range(1, 6)]
    np.testing.assert_allclose(means[1:], expected, rtol=1e-5)
    np.testing.assert_allclose(means[0], values.astype(np.float64).mean(axis=0), rtol=1e-4)
    remove_position_means_(slot, positions, means)
    assert values.dtype == dtype
    np.testing.assert_allclose(
        measure_position_means(slot, positions, 6), 0, atol=2e-3 if dtype == np.float16 else 1e-6
    )
    with pytest.raises(BadInput, match="exchanged"):
        remove_position_means_(slot.pick(np.arange(250), slot.places), positions, means)
