from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.maths.colour_naming import name_by_colour


def name_slowly(colours: np.ndarray, categories: np.ndarray) -> float:
    """One object, one pair of models at a time."""
    kinds = sorted(set(categories.tolist()))
    shares = []
    for a in range(len(colours)):
        for b in range(len(colours)):
            if a == b:
                continue
            right = {kind: [] for kind in kinds}
            for i, own in enumerate(categories):
                if np.isnan(colours[a, i]).any():
                    continue
                best, nearest = None, np.inf
                for kind in kinds:
                    others = [
                        colours[b, j]
                        for j in range(len(categories))
                        if j != i and categories[j] == kind and not np.isnan(colours[b, j]).any()
                    ]
                    distance = np.linalg.norm(colours[a, i] - np.mean(others, axis=0))
                    if distance < nearest:
                        best, nearest = kind, distance
                right[own].append(best == own)
            shares.append(np.mean([np.mean(values) for values in right.values() if values]))
    return float(np.mean(shares))


def test_it_equals_the_slow_loop() -> None:
    rng = np.random.default_rng(0)
    categories = rng.integers(1, 5, 40)
    colours = rng.normal(size=(3, 40, 3)) + categories[None, :, None] * 0.5
    colours[1, 3] = np.nan
    assert name_by_colour(colours, categories) == pytest.approx(name_slowly(colours, categories))


def test_one_colour_per_category_is_named_wholly_and_colours_of_each_model_alone_are_not() -> None:
    rng = np.random.default_rng(1)
    categories = np.repeat(np.arange(8), 10)
    shared = rng.uniform(0, 255, (8, 3))[categories]
    noise = rng.normal(size=(3, 80, 3))
    assert name_by_colour(shared[None] + noise, categories) == 1.0
    own = np.stack([rng.uniform(0, 255, (8, 3))[categories] for _ in range(3)])  # each model has its own colours
    assert name_by_colour(own + noise, categories) < 0.4


def test_without_any_relation_the_mean_is_chance() -> None:
    rng = np.random.default_rng(2)
    categories = np.repeat(np.arange(8), 12)
    shares = [name_by_colour(rng.normal(size=(3, 96, 3)), categories) for _ in range(60)]
    assert np.mean(shares) == pytest.approx(1 / 8, abs=0.012)
    tied = []  # the same photo has the same colour in every model, whatever is in it: the object itself takes no part
    for _ in range(60):
        photo = rng.normal(size=(1, 96, 3))
        tied.append(name_by_colour(np.repeat(photo, 3, axis=0), categories))
    assert np.mean(tied) < 1 / 8 + 0.012
