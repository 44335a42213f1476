from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.maths import permutations
from aligncut_cli.maths.permutations import ExchangedMasks, correct_for_highest, count_as_extreme


def test_the_first_masks_are_the_images_own_and_the_others_are_permutations(rng):
    foreground = rng.integers(-1, 2, (7, 13))
    masks = ExchangedMasks(foreground, n_permutations=5, seed=3)
    sources = np.stack([masks.find_sources(image) for image in range(7)], axis=1)
    assert sources[0].tolist() == list(range(7))
    assert all(sorted(row) == list(range(7)) for row in sources.tolist())
    assert len({tuple(row) for row in sources.tolist()}) == 6
    for image in (5, 0):
        sides = masks.read(image)
        for assignment, source in enumerate(sources[:, image]):
            assert sides[assignment, 0].tolist() == (foreground[source] == 1).tolist()
            assert sides[assignment, 1].tolist() == (foreground[source] == 0).tolist()


def test_any_grid_sees_the_same_exchanges_and_another_seed_others(rng):
    coarse, fine = (ExchangedMasks(np.zeros((9, n), int), n_permutations=4, seed=1) for n in (4, 25))
    other = ExchangedMasks(np.zeros((9, 4), int), n_permutations=4, seed=2)
    assert all((coarse.find_sources(i) == fine.find_sources(i)).all() for i in range(9))
    assert any((coarse.find_sources(i) != other.find_sources(i)).any() for i in range(9))


def test_many_images_are_exchanged_run_by_run_in_any_order(monkeypatch):
    monkeypatch.setattr(permutations, "IMAGES_EXCHANGED", 4)
    masks = ExchangedMasks(np.zeros((10, 3), int), n_permutations=3, seed=0)
    forth = [masks.find_sources(i).tolist() for i in range(10)]
    back = [masks.find_sources(i).tolist() for i in range(9, -1, -1)][::-1]
    assert forth == back
    for run in (range(4), range(4, 8), range(8, 10)):
        for assignment in range(4):
            assert sorted(forth[i][assignment] for i in run) == list(run)


def test_a_p_value_is_never_0_and_counts_equals():
    assert count_as_extreme(np.array([0.1, 0.5, 0.9]), np.float64(0.5)) == 3 / 4
    assert count_as_extreme(np.array([0.1]), np.float64(7)) == 1 / 2
    assert count_as_extreme(np.array([np.nan, 0.9]), np.float64(0.5)) == 2 / 3
    assert np.isnan(count_as_extreme(np.array([0.1]), np.float64(np.nan)))


def test_the_correction_is_that_of_a_loop_over_exchanges(rng):
    null, observed = rng.normal(size=(40, 3)) * [1, 10, 0.1], np.array([2.0, 15.0, 0.1])
    every = [observed.tolist(), *null.tolist()]
    columns = list(zip(*every, strict=True))
    mean = [sum(column) / 41 for column in columns]
    spread = [(sum((x - m) ** 2 for x in column) / 41) ** 0.5 for column, m in zip(columns, mean, strict=True)]
    z = [[(x - m) / s for x, m, s in zip(row, mean, spread, strict=True)] for row in every]
    wanted = [(1 + sum(max(row) >= z[0][k] for row in z[1:])) / 41 for k in range(3)]
    corrected = correct_for_highest(null, observed)
    assert corrected.tolist() == pytest.approx(wanted)
    assert (corrected >= count_as_extreme(null, observed) - 1e-12).all()


def test_a_score_that_is_not_there_corrects_nothing(rng):
    null, observed = rng.normal(size=(30, 2)), np.array([1.0, 2.0])
    with_gap = correct_for_highest(np.insert(null, 1, np.nan, axis=1), np.array([1.0, np.nan, 2.0]))
    assert np.isnan(with_gap[1])
    assert with_gap[[0, 2]].tolist() == correct_for_highest(null, observed).tolist()
    assert np.isnan(correct_for_highest(null[:, :1], np.array([np.nan]))).all()
    assert correct_for_highest(np.ones((9, 1)), np.ones(1)).tolist() == [1.0]


def test_any_of_several_true_nulls_is_rejected_as_often_as_promised():
    rng = np.random.default_rng(0)
    lowest = []
    for _ in range(300):
        shared = rng.normal(size=(40, 1))
        every = shared + rng.normal(size=(40, 6)) * np.geomspace(0.1, 10, 6)
        lowest.append(correct_for_highest(every[1:], every[0]).min())
    assert 0.02 <= np.mean(np.array(lowest) <= 0.05) <= 0.09


@pytest.fixture
def rng():
    return np.random.default_rng(7)
