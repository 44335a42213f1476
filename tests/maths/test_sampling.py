from __future__ import annotations

import numpy as np
import pytest
import torch

from aligncut_cli.errors import BadInput
from aligncut_cli.maths import sampling
from aligncut_cli.maths.sampling import SmallestKeys, farthest_point_sample, node_keys, stable_hash


def farthest_naively(points: np.ndarray, n_sample: int, start: int) -> list[int]:
    chosen = [start]
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    while len(chosen) < n_sample:
        best, best_gap = -1, -1.0
        for i in range(len(points)):
            if i not in chosen:
                gap = min(squared[i, chosen])
                if gap > best_gap:
                    best, best_gap = i, gap
        chosen.append(best)
    return chosen


def test_the_hash_is_the_same_for_ever():
    assert stable_hash(0, "clip", 3) == np.uint64(6663395484412473170)
    assert stable_hash(0, "clip", 3).dtype == np.uint64


def test_the_hash_tells_seeds_types_and_splits_apart():
    hashes = [
        stable_hash(0, "ab"),
        stable_hash(1, "ab"),
        stable_hash(0, "a", "b"),
        stable_hash(0, "1"),
        stable_hash(0, 1),
    ]
    assert len(set(hashes)) == len(hashes)


def test_keys_of_some_images_are_those_rows_of_the_keys_of_all():
    images = np.array([stable_hash(0, f"{i}.png") for i in range(20)])
    slot = stable_hash(0, "dino", 4)
    keys = node_keys(images, slot, 197)
    assert keys.shape == (20, 197)
    assert keys.dtype == np.uint64
    order = np.random.default_rng(0).permutation(20)
    assert np.array_equal(node_keys(images[order], slot, 197), keys[order])
    assert np.array_equal(node_keys(images[5:7], slot, 197), keys[5:7])
    assert not np.array_equal(node_keys(images, stable_hash(0, "dino", 5), 197), keys)


def test_keys_are_uniform_and_distinct_over_slots_images_and_tokens():
    images = np.array([stable_hash(7, f"{i}.png") for i in range(100)])
    keys = np.stack([node_keys(images, stable_hash(7, "m", layer), 197) for layer in range(12)])
    assert len(np.unique(keys)) == keys.size
    share = keys.reshape(12, -1).astype(np.float64) / 2.0**64
    assert np.abs(share.mean(axis=1) - 0.5).max() < 5 / np.sqrt(12 * share.shape[1])
    # Which images, tokens and slots are drawn is independent: counts are those of uniform draws.
    drawn = np.zeros(keys.size, dtype=bool)
    sample = SmallestKeys(20_000)
    sample.add(keys, 0)
    drawn[sample.result()] = True
    for axes in [(1, 2), (0, 2), (0, 1)]:
        counts = drawn.reshape(keys.shape).sum(axis=axes)
        expected = counts.mean()
        chi2 = ((counts - expected) ** 2 / expected).sum()
        assert chi2 < len(counts) + 6 * np.sqrt(2 * len(counts))


@pytest.mark.parametrize("chunk", [1, 7, 100, 5000])
def test_the_sample_does_not_depend_on_chunks_or_their_order(chunk):
    keys = np.random.default_rng(0).integers(0, 2**64, 5000, dtype=np.uint64)
    # Equal keys on both sides of the last place.
    keys[100:110] = keys[200:210] = np.sort(keys)[325]
    expected = np.sort(np.lexsort((np.arange(5000), keys))[:333])
    starts = list(range(0, 5000, chunk))
    for order in (starts, starts[::-1]):
        sample = SmallestKeys(333)
        for start in order:
            sample.add(keys[start : start + chunk], start)
            assert sample._held <= 2 * 333
        assert np.array_equal(sample.result(), expected)


def test_nodes_may_be_named_one_by_one():
    keys = np.array([[5, 1], [3, 9]], dtype=np.uint64)
    sample = SmallestKeys(2)
    sample.add(keys, np.array([[40, 30], [20, 10]]))
    assert sample.result().tolist() == [20, 30]


def test_a_sample_larger_than_the_stream_is_the_stream():
    sample = SmallestKeys(10)
    sample.add(np.array([3, 1, 2], dtype=np.uint64), 0)
    assert sample.result().tolist() == [0, 1, 2]
    assert SmallestKeys(3).result().tolist() == []
    with pytest.raises(BadInput, match="cannot sample 0"):
        SmallestKeys(0)


def test_farthest_points_are_those_of_the_naive_loop():
    points = np.random.default_rng(1).normal(size=(60, 3))
    count = 40
    chosen = farthest_point_sample(torch.from_numpy(points), count, start=17)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == farthest_naively(points, count, 17)


@pytest.mark.parametrize("candidates", [1, 5, 100, 10_000])
def test_choosing_in_batches_changes_nothing(monkeypatch, candidates):
    monkeypatch.setattr(sampling, "_CANDIDATES", candidates)
    monkeypatch.setattr(sampling, "_DISTANCE_ROWS", 70)
    rng = np.random.default_rng(2)
    clustered = rng.normal(size=(8, 5))[rng.integers(0, 8, 300)] + 0.05 * rng.normal(size=(300, 5))
    chosen = farthest_point_sample(torch.from_numpy(clustered), 120, start=3)
    assert chosen.tolist() == farthest_naively(clustered, 120, 3)


@pytest.mark.parametrize("copies", [1, 80])
def test_of_equally_far_points_the_lowest_index_comes_first(copies):
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])
    points = np.concatenate([square] * copies * 11)
    chosen = farthest_point_sample(torch.from_numpy(points), 6, start=4)
    assert chosen.tolist()[:5] == [4, 0, 1, 2, 3]
    everything = farthest_point_sample(torch.from_numpy(points), len(points), start=4)
    assert sorted(everything.tolist()) == list(range(len(points)))


def test_impossible_farthest_points_are_refused():
    points = torch.zeros(5, 2)
    assert farthest_point_sample(points, 5, start=2).tolist() == [2, 0, 1, 3, 4]
    with pytest.raises(BadInput, match="cannot choose 6 of 5"):
        farthest_point_sample(points, 6, start=0)
    with pytest.raises(BadInput, match="no point 5"):
        farthest_point_sample(points, 2, start=5)
    with pytest.raises(BadInput, match="NaN"):
        farthest_point_sample(torch.tensor([[float("nan")]]), 1, start=0)
