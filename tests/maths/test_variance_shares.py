"""Shares of variance that slots and photos explain, against a plain loop, a simulated null and both extremes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from aligncut_cli.maths.variance_shares import VarianceShares

Rows = list[NDArray[np.float64]]


def make_rows(n_tokens: list[int], n_photos: int, dim: int, *, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n_photos, count, dim)) + rng.standard_normal(dim) for count in n_tokens]


def shares_of(rows: Rows, *, block: int = 3):
    """Give the rows (photo, token, channel) of each slot in blocks of photos."""
    shares = VarianceShares(np.array([slot.shape[1] for slot in rows]))
    for low in range(0, len(rows[0]), block):
        part = [slot[low : low + block] for slot in rows]
        shares.add(
            np.stack([slot.sum(axis=1) for slot in part]), np.stack([np.square(slot).sum(axis=(1, 2)) for slot in part])
        )
    return shares.result()


def naive_share(points: list[NDArray[np.float64]], labels: list[int]) -> float:
    mean = sum(points) / len(points)
    total = sum(float((point - mean) @ (point - mean)) for point in points)
    between = 0.0
    for label in set(labels):
        members = [point for point, own in zip(points, labels, strict=True) if own == label]
        offset = sum(members) / len(members) - mean
        between += len(members) * float(offset @ offset)
    return between / total


def flatten(rows: Rows) -> tuple[list[NDArray[np.float64]], list[int], list[int]]:
    nodes = [(row, s, i) for s, slot in enumerate(rows) for i, photo in enumerate(slot) for row in photo]
    points, slots, photos = zip(*nodes, strict=True)
    return list(points), list(slots), list(photos)


@pytest.mark.parametrize("n_tokens", [[4, 4, 4], [2, 7, 5]])
@pytest.mark.parametrize("block", [1, 3, 100])
def test_shares_are_the_naive_sums_of_squares_whatever_the_blocks(n_tokens: list[int], block: int) -> None:
    rows = make_rows(n_tokens, 8, 5, seed=1)
    found, (points, slots, photos) = shares_of(rows, block=block), flatten(rows)
    assert found.slot == pytest.approx(naive_share(points, slots), rel=1e-9)
    assert found.photo == pytest.approx(naive_share(points, photos), rel=1e-9)


def test_rows_without_slots_or_photos_have_the_share_of_chance() -> None:
    rng = np.random.default_rng(0)
    found = [shares_of(list(rng.standard_normal((6, 10, 5, 3)))) for _ in range(200)]
    n = 6 * 10 * 5
    for name, groups in (("slot", 6), ("photo", 10)):
        values = np.array([getattr(shares, name) for shares in found])
        standard_error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - (groups - 1) / (n - 1)) < 4 * standard_error


def test_what_slots_or_photos_decide_alone_has_share_one() -> None:
    rng = np.random.default_rng(1)
    of_slot, of_photo = rng.standard_normal((4, 1, 1, 3)), rng.standard_normal((1, 6, 1, 3))
    by_slot = shares_of(list(np.broadcast_to(of_slot, (4, 6, 5, 3))))
    by_photo = shares_of(list(np.broadcast_to(of_photo, (4, 6, 5, 3))))
    assert by_slot.slot == pytest.approx(1)
    assert by_slot.photo == pytest.approx(0, abs=1e-12)
    assert by_photo.slot == pytest.approx(0, abs=1e-12)
    assert by_photo.photo == pytest.approx(1)


def test_planted_shares_are_found_and_do_not_depend_on_scale_or_turn() -> None:
    rng = np.random.default_rng(2)
    slot, photo = rng.standard_normal((8, 1, 1, 3)), rng.standard_normal((1, 200, 1, 3))
    rows = np.sqrt(0.3) * slot + np.sqrt(0.2) * photo + np.sqrt(0.5) * rng.standard_normal((8, 200, 10, 3))
    found = shares_of(list(rows))
    parts = np.array([0.3 * slot.var(axis=0).sum(), 0.2 * photo.var(axis=1).sum(), 0.5 * 3])
    expected = parts / parts.sum()
    assert found.slot == pytest.approx(expected[0], abs=0.01)
    assert found.photo == pytest.approx(expected[1], abs=0.01)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    again = shares_of(list(1e-4 * rows @ turn))
    assert again.slot == pytest.approx(found.slot, rel=1e-6)


def test_one_slot_one_photo_or_no_variance_have_no_share() -> None:
    one_slot = shares_of(make_rows([4], 6, 3, seed=3))
    assert one_slot.slot is None
    assert one_slot.photo is not None
    one_photo = shares_of(make_rows([4, 4], 1, 3, seed=4))
    assert one_photo.photo is None
    assert one_photo.slot is not None
    constant = shares_of([np.full((5, 4, 3), 0.1, np.float32).astype(np.float64)] * 3)
    assert (constant.slot, constant.photo) == (None, None)
    assert VarianceShares(np.array([3])).result().slot is None
    assert one_slot.describe().startswith("slots not defined, photos 0.")
