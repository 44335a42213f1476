"""The paired test: its level under a true null of unlike images, a planted difference, and all signs by hand."""

from __future__ import annotations

import itertools

import numpy as np

from aligncut_cli.maths.paired import compare_paired


def test_p_is_the_share_of_all_signs_that_reach_the_difference() -> None:
    first, second = np.zeros(6), np.array([0.3, -0.1, 0.2, 0.4, np.nan, -0.05])
    values = second[np.isfinite(second)]
    means = [abs(np.dot(signs, values)) / len(values) for signs in itertools.product((-1, 1), repeat=len(values))]
    exact = np.mean([mean >= abs(values.mean()) - 1e-12 for mean in means])
    found = compare_paired(first, second, n_draws=40_000, seed=0)
    assert abs(found.p - exact) < 0.01
    assert (found.n_images, found.difference) == (5, values.mean())
    assert found.error == values.std(ddof=1) / np.sqrt(5)


def test_the_level_holds_where_images_are_unlike_each_other_and_a_planted_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    null, planted = [], []
    for seed in range(400):
        spread = rng.exponential(1, 30) ** 2  # few images vary much, most hardly
        difficulty = rng.uniform(0, 1, 30)
        one, two = (difficulty + 0.1 * spread * rng.standard_normal(30) for _ in range(2))
        null.append(compare_paired(one, two, n_draws=199, seed=seed).p)
        even = difficulty + 0.05 * rng.standard_normal(30)
        planted.append(compare_paired(even, even + 0.03 + 0.04 * rng.standard_normal(30), n_draws=199, seed=seed).p)
    for level in (0.05, 0.1, 0.5):
        assert abs(np.mean(np.array(null) <= level) - level) < 3 * np.sqrt(level * (1 - level) / 400)
    assert np.mean(np.array(planted) <= 0.05) > 0.9


def test_equal_runs_and_runs_without_images_have_p_one() -> None:
    same = np.linspace(0, 1, 9)
    assert compare_paired(same, same, n_draws=99, seed=0).p == 1
    none = compare_paired(np.full(3, np.nan), np.zeros(3), n_draws=99, seed=0)
    assert (none.n_images, none.p) == (0, 1.0)
