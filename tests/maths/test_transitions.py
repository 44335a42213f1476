from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.maths.concepts import find_members
from aligncut_cli.maths.permutations import ExchangedMasks
from aligncut_cli.maths.transitions import TransitionCounts, TransitionResult, score_bifurcation

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


def count(images, *, n_permutations=99, seed=0, order=None) -> TransitionResult:
    masks = ExchangedMasks(np.stack([mask for _, _, mask in images]), n_permutations=n_permutations, seed=seed)
    counts = TransitionCounts(3, 3, masks=masks)
    for i in range(len(images)) if order is None else order:
        before, after, _ = images[i]
        counts.add(find_members(before, CENTRES, radius=1.0), find_members(after, CENTRES, radius=1.0), image=i)
    return counts.finish()


def count_with_masks(images, sources):
    """The same with each image given another's mask, token by token: (2, from, to + 2)."""
    tables = np.zeros((2, 3, 5), int)
    for (before, after, _), source in zip(images, sources, strict=True):
        for p, q, figure in zip(before, after, images[source][2], strict=True):
            if figure < 0:
                continue
            lands = [bool(np.hypot(*(q - place)) <= 1) for place in CENTRES]
            for a in range(3):
                if np.hypot(*(p - CENTRES[a])) <= 1:
                    tables[1 - figure, a] += [*lands, not any(lands), 1]
    return tables


def test_planted_probabilities_are_recovered_within_sampling_error(rng):
    result = count(list(planted_images(rng, n_images=150)))
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
    result = count(images)
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
    inside = np.array([[True, False], [True, False]])
    counts = TransitionCounts(2, 2, masks=ExchangedMasks(np.array([[1, 0]]), n_permutations=9, seed=0))
    counts.add(inside, inside, image=0)
    result = counts.finish()
    assert result.members.tolist() == [[2, 0], [1, 0], [1, 0]]
    assert result.probability[:, 0].tolist() == [[1.0, 0.0]] * 3
    assert np.isnan(result.probability[:, 1]).all()
    assert result.bifurcation == 0.0


def test_overlapping_balls_count_a_token_in_both():
    counts = TransitionCounts(1, 2, masks=None)
    counts.add(np.ones((3, 1), bool), np.array([[1, 1], [1, 0], [0, 0]], bool), image=0)
    result = counts.finish()
    assert result.probability[0].tolist() == [[2 / 3, 1 / 3]]
    assert result.nowhere[0].tolist() == [1 / 3]


def test_without_masks_only_all_tokens_are_counted(rng):
    counts = TransitionCounts(3, 3, masks=None)
    for i, (before, after, _) in enumerate(planted_images(rng, n_images=3)):
        counts.add(find_members(before, CENTRES, radius=1), find_members(after, CENTRES, radius=1), image=i)
    result = counts.finish()
    assert (result.members[0] > 0).all()
    assert result.members[1:].sum() == 0
    assert np.isnan([result.bifurcation, result.expected, result.p]).all()


def test_the_permutations_give_whole_masks_to_other_images(rng):
    """Against a loop that gives each image the mask of another and counts every token again."""
    images = list(planted_images(rng, n_images=6))
    result = count(images, n_permutations=20, seed=4)
    masks = ExchangedMasks(np.stack([mask for _, _, mask in images]), n_permutations=20, seed=4)
    sources = np.stack([masks.find_sources(i) for i in range(6)])
    null = [float(score_bifurcation(*count_with_masks(images, sources[:, k]))) for k in range(1, 21)]
    np.testing.assert_allclose(result.null, null)
    observed = float(score_bifurcation(*count_with_masks(images, range(6))))
    assert result.bifurcation == pytest.approx(observed)
    assert result.expected == pytest.approx(np.mean(null))
    assert result.p == pytest.approx((1 + sum(score >= observed - 1e-12 for score in null)) / 21)


def test_the_order_of_images_does_not_matter(rng):
    images = list(planted_images(rng, n_images=9))
    whole, again = count(images), count(images, order=rng.permutation(9))
    assert (again.counts == whole.counts).all()
    assert (again.bifurcation, again.expected, again.p) == (whole.bifurcation, whole.expected, whole.p)


def null_world(rng, *, share, n_images=24, n_tokens=40):
    """Every image has a law of its own, and a run of tokens as foreground that has nothing to do with it."""
    for _ in range(n_images):
        goes = rng.random()
        to_first = rng.random(n_tokens) < goes
        length = round(n_tokens * share * rng.uniform(0.5, 1.5))
        foreground = np.roll(np.arange(n_tokens) < length, rng.integers(n_tokens)).astype(int)
        yield to_first, foreground


def run_test(images, *, seed):
    """Test a world of one concept and two destinations."""
    masks = ExchangedMasks(np.stack([mask for _, mask in images]), n_permutations=39, seed=seed)
    counts = TransitionCounts(1, 2, masks=masks)
    for i, (to_first, _) in enumerate(images):
        counts.add(np.ones((len(to_first), 1), bool), np.stack([to_first, ~to_first], 1), image=i)
    return counts.finish().p


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25])
def test_without_a_difference_p_is_uniform_however_rare_the_foreground_is(share):
    """Images with laws of their own: a test over tokens rejects nearly always, and so did one that swaps the names."""
    p = [run_test(list(null_world(np.random.default_rng(seed), share=share)), seed=seed) for seed in range(80)]
    assert 0.4 < np.mean(p) < 0.6
    assert np.mean(np.array(p) <= 0.1) < 0.2


def test_a_planted_difference_is_found_where_images_have_laws_of_their_own():
    p = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        images = list(null_world(rng, share=0.1))
        moved = [(to_first | ((mask == 1) & (rng.random(40) < 0.7)), mask) for to_first, mask in images]
        p.append(run_test(moved, seed=seed))
    assert np.mean(np.array(p) <= 0.05) > 0.8


def test_the_score_is_0_for_equal_rows_1_for_rows_that_never_meet_and_leaves_out_one_sided_rows():
    same = np.array([[5, 5, 0, 10]])
    assert score_bifurcation(same, 2 * same) == 0
    apart = np.array([[10, 0, 0, 10]]), np.array([[0, 2, 2, 4]])
    assert score_bifurcation(*apart) == 1
    one_sided = np.array([[3, 0, 0, 3]]), np.array([[0, 0, 0, 0]])
    both = [np.concatenate(pair) for pair in zip(apart, one_sided, strict=True)]
    assert score_bifurcation(*both) == 1
    assert np.isnan(score_bifurcation(*one_sided))


def test_rows_weigh_by_how_exactly_their_difference_is_known():
    figure = np.array([[10, 0, 0, 10], [1, 0, 0, 1]])
    ground = np.array([[0, 5, 5, 10], [99, 0, 0, 99]])
    first, second = 1 / (1 / 10 + 1 / 10), 1 / (1 / 1 + 1 / 99)
    assert score_bifurcation(figure, ground) == pytest.approx(first / (first + second))


@pytest.fixture
def rng():
    return np.random.default_rng(7)
