from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.maths.concepts import find_members
from aligncut_cli.maths.transitions import TransitionCounts, score_bifurcation

CENTRES = np.array([[0.0, 0], [10, 0], [0, 10]])
FIGURE = np.array([[0.6, 0.3, 0.1, 0.0], [0.1, 0.8, 0.0, 0.1], [0.0, 0.2, 0.5, 0.3]])
GROUND = np.array([[0.2, 0.3, 0.3, 0.2], [0.1, 0.1, 0.7, 0.1], [0.0, 0.2, 0.5, 0.3]])


def planted_images(rng, *, n_images, n_tokens=60, figure=FIGURE, ground=GROUND):
    """Tokens that sit in a known ball and move to a known one, or nowhere (the last column)."""
    places = np.concatenate([CENTRES, [[50, 50]]])
    for _ in range(n_images):
        foreground = rng.integers(-1, 2, n_tokens)
        start = rng.integers(0, 4, n_tokens)  # 3 = in no ball
        end = np.empty(n_tokens, int)
        for token in range(n_tokens):
            table = figure if foreground[token] == 1 else ground
            end[token] = rng.choice(4, p=table[start[token]]) if start[token] < 3 else rng.integers(0, 4)
        jitter = rng.uniform(-0.6, 0.6, (2, n_tokens, 2))
        yield places[start] + jitter[0], places[end] + jitter[1], foreground


def count(images, *, n_permutations=99, seed=0):
    counts = TransitionCounts(3, 3, n_permutations=n_permutations, seed=seed)
    for i, (before, after, foreground) in enumerate(images):
        counts.add(
            find_members(before, CENTRES, radius=1.0),
            find_members(after, CENTRES, radius=1.0),
            foreground=foreground,
            image=i,
        )
    return counts


def test_planted_probabilities_are_recovered_within_sampling_error(rng):
    result = count(planted_images(rng, n_images=150)).finish()
    for kind, wanted in ((1, FIGURE), (2, GROUND)):
        error = 4 * np.sqrt(wanted * (1 - wanted) / result.members[kind][:, None]) + 1e-9
        assert (np.abs(result.probability[kind] - wanted[:, :3]) < error[:, :3]).all()
        assert (np.abs(result.nowhere[kind] - wanted[:, 3]) < error[:, 3]).all()
    # Two thirds of the tokens follow GROUND (background and neither).
    np.testing.assert_allclose(result.probability[0], (FIGURE + 2 * GROUND)[:, :3] / 3, atol=0.05)
    true = (0.5 * np.abs(FIGURE - GROUND).sum(1)).mean()
    assert result.bifurcation == pytest.approx(true, abs=0.04)
    assert result.p == 1 / 100


def test_counts_equal_a_loop_over_tokens(rng):
    images = list(planted_images(rng, n_images=7))
    result = count(images).finish()
    wanted = np.zeros((3, 3, 3), int)
    members = np.zeros((3, 3), int)
    for before, after, foreground in images:
        for p, q, figure in zip(before, after, foreground, strict=True):
            for kind in {1: [0, 1], 0: [0, 2], -1: [0]}[int(figure)]:
                for a in range(3):
                    if np.hypot(*(p - CENTRES[a])) <= 1:
                        members[kind, a] += 1
                        for b in range(3):
                            wanted[kind, a, b] += np.hypot(*(q - CENTRES[b])) <= 1
    assert (result.counts == wanted).all()
    assert (result.members == members).all()
    np.testing.assert_allclose(result.probability, wanted / members[..., None])
    np.testing.assert_allclose(result.probability.sum(-1) + result.nowhere, 1)


def test_an_empty_row_is_nan_and_not_a_certain_zero():
    counts = TransitionCounts(2, 2, n_permutations=9, seed=0)
    inside = np.array([[True, False], [True, False]])
    counts.add(inside, inside, foreground=np.array([1, 0]), image=0)
    result = counts.finish()
    assert result.members.tolist() == [[2, 0], [1, 0], [1, 0]]
    assert result.probability[:, 0].tolist() == [[1.0, 0.0]] * 3
    assert np.isnan(result.probability[:, 1]).all()
    assert result.bifurcation == 0.0


def test_overlapping_balls_count_a_token_in_both():
    counts = TransitionCounts(1, 2, n_permutations=0, seed=0)
    counts.add(np.ones((3, 1), bool), np.array([[1, 1], [1, 0], [0, 0]], bool), foreground=None, image=0)
    result = counts.finish()
    assert result.probability[0].tolist() == [[2 / 3, 1 / 3]]
    assert result.nowhere[0].tolist() == [1 / 3]


def test_without_masks_only_all_tokens_are_counted(rng):
    counts = TransitionCounts(3, 3, n_permutations=9, seed=0)
    for i, (before, after, _) in enumerate(planted_images(rng, n_images=3)):
        counts.add(
            find_members(before, CENTRES, radius=1), find_members(after, CENTRES, radius=1), foreground=None, image=i
        )
    result = counts.finish()
    assert (result.members[0] > 0).all()
    assert result.members[1:].sum() == 0
    assert np.isnan([result.bifurcation, result.expected, result.p]).all()


def test_the_permutations_are_exchanges_of_whole_images(rng):
    """Against a loop that swaps the names image by image and counts everything again."""
    images = list(planted_images(rng, n_images=6))
    counts = count(images, n_permutations=20, seed=4)
    signs = [1 - 2 * np.random.default_rng([4, i]).integers(0, 2, 20) for i in range(6)]
    null = []
    for permutation in range(20):
        swapped = [
            (before, after, foreground if signs[i][permutation] == 1 else np.where(foreground >= 0, 1 - foreground, -1))
            for i, (before, after, foreground) in enumerate(images)
        ]
        null.append(count(swapped, n_permutations=1).finish().bifurcation)
    result = counts.finish()
    assert result.expected == pytest.approx(np.mean(null))
    assert result.p == pytest.approx((1 + sum(score >= result.bifurcation - 1e-12 for score in null)) / 21)


def test_the_order_of_images_does_not_matter(rng):
    images = list(planted_images(rng, n_images=5))
    whole = count(images).finish()
    shuffled = TransitionCounts(3, 3, n_permutations=99, seed=0)
    for i in (3, 1, 4, 0, 2):
        before, after, foreground = images[i]
        shuffled.add(
            find_members(before, CENTRES, radius=1),
            find_members(after, CENTRES, radius=1),
            foreground=foreground,
            image=i,
        )
    again = shuffled.finish()
    assert (again.counts == whole.counts).all()
    assert (again.bifurcation, again.expected, again.p) == (whole.bifurcation, whole.expected, whole.p)


def test_without_a_difference_p_is_uniform_although_tokens_of_an_image_move_together():
    """Every image has a law of its own: a test over tokens would reject nearly always, one over images must not."""
    p = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        counts = TransitionCounts(1, 2, n_permutations=39, seed=seed)
        for i in range(12):
            goes = rng.random()
            foreground = (np.arange(40) < rng.integers(5, 35)).astype(int)
            to_first = rng.random(40) < goes
            counts.add(np.ones((40, 1), bool), np.stack([to_first, ~to_first], 1), foreground=foreground, image=i)
        p.append(counts.finish().p)
    assert 0.38 < np.mean(p) < 0.62
    assert np.mean(np.array(p) <= 0.1) < 0.25


def test_the_score_is_0_for_equal_rows_1_for_rows_that_never_meet_and_leaves_out_one_sided_rows():
    same = np.array([[5, 5, 0, 10]])
    assert score_bifurcation(same, 2 * same) == 0
    apart = np.array([[10, 0, 0, 10]]), np.array([[0, 2, 2, 4]])
    assert score_bifurcation(*apart) == 1
    one_sided = np.array([[3, 0, 0, 3]]), np.array([[0, 0, 0, 0]])
    both = [np.concatenate(pair) for pair in zip(apart, one_sided, strict=True)]
    assert score_bifurcation(*both) == 1
    assert np.isnan(score_bifurcation(*one_sided))


@pytest.fixture
def rng():
    return np.random.default_rng(7)
