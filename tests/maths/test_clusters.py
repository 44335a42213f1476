from __future__ import annotations

import itertools

import numpy as np
import pytest

from aligncut_cli.errors import UsageError
from aligncut_cli.maths.clusters import fit_discretization, match_clusters, nest_clusters


def planted_eigenvectors(rng, *, sizes, n_eig=None, noise=0.05):
    """Eigenvectors of a graph of separate blocks: an unknown rotation of the indicators, and noise."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    indicator = np.eye(len(sizes))[label] / np.sqrt(np.array(sizes))
    rotation, _ = np.linalg.qr(rng.normal(size=(len(sizes), len(sizes))))
    degree = rng.uniform(0.5, 2, (len(label), 1))  # D^(1/2) in front of every row
    vectors = (indicator @ rotation) * np.sqrt(degree)
    vectors += noise * rng.normal(size=vectors.shape) * np.abs(vectors).mean()
    extra = rng.normal(size=(len(label), (n_eig or len(sizes)) - len(sizes)))
    return np.concatenate([vectors, extra], axis=1).astype(np.float32), label


@pytest.mark.parametrize("method", ["rotation", "kmeans"])
def test_planted_blocks_are_found_whatever_the_rotation(method):
    for seed in range(5):
        vectors, label = planted_eigenvectors(np.random.default_rng(seed), sizes=[50, 30, 20, 10], n_eig=6)
        fitted = fit_discretization(vectors, n_clusters=4, method=method, seed=0)
        assert fitted.label(vectors).tolist() == label.tolist()  # numbered by decreasing size, as they were planted
        assert fitted.sizes.tolist() == [50, 30, 20, 10]


def test_the_rotation_is_at_least_as_near_to_indicators_as_any_of_many_random_ones(rng):
    rows = rng.normal(size=(200, 3)) + np.array([1, 0, 0])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    fitted = fit_discretization(rows, n_clusters=3, method="rotation", seed=1)
    np.testing.assert_allclose(fitted.weights.T @ fitted.weights, np.eye(3), atol=1e-12)

    def distance(rotation):
        turned = unit @ rotation
        indicator = np.eye(3)[turned.argmax(1)]
        return ((indicator - turned) ** 2).sum()

    others = [distance(np.linalg.qr(rng.normal(size=(3, 3)))[0]) for _ in range(300)]
    assert distance(fitted.weights) <= min(others) + 1e-9


@pytest.mark.parametrize("method", ["rotation", "kmeans"])
def test_the_same_seed_gives_the_same_bytes_and_blocks_do_not_matter(rng, method):
    rows = rng.normal(size=(300, 5)).astype(np.float32)
    first, second = (fit_discretization(rows, n_clusters=5, method=method, seed=3) for _ in range(2))
    assert first.weights.tobytes() == second.weights.tobytes()
    label = first.label(rows.reshape(3, 100, 5))
    assert label.shape == (3, 100)
    assert label.dtype == np.int16
    assert label.ravel().tolist() == np.concatenate([first.label(part) for part in np.split(rows, 20)]).tolist()


def test_kmeans_labels_by_the_nearest_mean(rng):
    rows = rng.normal(size=(100, 4))
    fitted = fit_discretization(rows, n_clusters=4, method="kmeans", seed=0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    distance = ((unit[:, None] - fitted.weights.T[None]) ** 2).sum(-1)
    assert fitted.label(rows).tolist() == distance.argmin(1).tolist()


def test_rows_of_zeros_get_some_label():
    rows = np.concatenate([np.eye(3), np.zeros((2, 3))])
    assert fit_discretization(rows, n_clusters=3, method="rotation", seed=0).label(rows).min() >= 0


@pytest.mark.parametrize("n_clusters", [1, 7])
def test_more_clusters_than_eigenvectors_are_refused(rng, n_clusters):
    with pytest.raises(UsageError, match="--n-eig"):
        fit_discretization(rng.normal(size=(50, 6)), n_clusters=n_clusters, method="rotation", seed=0)


def test_levels_are_nested_and_merge_what_belongs_together(rng):
    """Three far groups of near clusters: coarse levels join the near ones."""
    centres = np.array([[0, 0, 9], [0, 1, 9], [9, 0, 0], [9, 1, 0], [0, 9, 0], [1, 9, 0.0]])
    rows = np.concatenate([np.repeat(centres, [60, 50, 40, 30, 20, 10], axis=0), np.zeros((210, 3))], axis=1)
    rows = rows + 0.01 * rng.normal(size=rows.shape)
    fitted = fit_discretization(rows, n_clusters=6, method="kmeans", seed=0)
    levels = nest_clusters(fitted, levels=[6, 4, 3, 2, 1])
    assert [len(set(level.tolist())) for level in levels] == [6, 4, 3, 2, 1]
    assert levels[0].tolist() == list(range(6))
    assert levels[2].tolist() == [0, 0, 1, 1, 2, 2]
    for fine, coarse in itertools.pairwise(levels):
        parents = {(a, b) for a, b in zip(fine.tolist(), coarse.tolist(), strict=True)}
        assert len(parents) == len(set(fine.tolist()))
    sizes = [np.bincount(level, fitted.sizes) for level in levels]
    assert all((np.diff(size) <= 0).all() for size in sizes)
    with pytest.raises(UsageError, match="between 1 and 6"):
        nest_clusters(fitted, levels=[7])


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (4, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_matching_is_the_best_of_all_pairings(seed, shape):
    overlap = np.random.default_rng(seed).integers(0, 30, shape)
    n_classes, n_clusters = shape
    best = 0.0
    for picks in itertools.permutations([*range(n_clusters), *[-1] * n_classes], n_classes):
        total = 0.0
        for label, cluster in enumerate(picks):
            if cluster >= 0:
                shared = int(overlap[label, cluster])
                total += shared / (sum(overlap[label]) + sum(overlap[:, cluster]) - shared)
        best = max(best, total / n_classes)
    match = match_clusters(overlap)
    assert match.miou == pytest.approx(best)
    assert len(set(match.cluster[match.cluster >= 0].tolist())) == min(shape)


def test_perfect_clusters_score_1_under_any_names_and_an_absent_class_does_not_change_the_mean():
    overlap = np.array([[0, 0, 7], [3, 0, 0], [0, 5, 0]])
    match = match_clusters(overlap)
    assert match.miou == 1.0
    assert match.cluster.tolist() == [2, 0, 1]
    more = match_clusters(np.concatenate([overlap, np.zeros((2, 3), int)]))
    assert more.miou == 1.0
    assert np.isnan(more.iou[3:]).all()
    assert more.cluster[3:].tolist() == [-1, -1]
    assert np.isnan(match_clusters(np.zeros((2, 2), int)).miou)


def test_splitting_a_class_into_many_clusters_does_not_raise_the_score():
    assert match_clusters(np.array([[4, 4, 0], [0, 0, 8]])).miou == pytest.approx((0.5 + 1) / 2)


@pytest.fixture
def rng():
    return np.random.default_rng(7)
