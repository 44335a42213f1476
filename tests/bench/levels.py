"""Level and power of the tests: how often p <= 0.05 where nothing is there, and where something is.

    python -m tests.bench.levels [--runs 200]

Worlds are small, and made anew for each run. In those of `transitions` the concepts are smooth over the image,
foreground is a disk of about the given share of the image, and tokens of an image move by the image's own table where
that is said. Beside each p stands that of the test which this one replaced: foreground and background exchange their
names, image by image. In those of `concepts` the voxels of an ROI respond alike, whatever was fitted.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.concepts import compare_with_controls, score_roi_correspondence
from aligncut_cli.maths.permutations import ExchangedMasks, correct_for_highest, count_as_extreme
from aligncut_cli.maths.transitions import TransitionCounts, TransitionResult, score_bifurcation

IMAGES, SIDE, CONCEPTS, PERMUTATIONS = 40, 7, 3, 99
CONTROLS, VOXELS, ROIS = 19, 120, 5


@dataclass(frozen=True)
class World:
    """How a world of transitions is made.

    share  : of an image that is foreground, about
    own    : whether each image has transitions of its own
    start  : how much rather foreground tokens are in the first concept
    effect : share of the foreground's tokens that move by another table
    steps  : from layer to layer
    """

    share: float
    own: bool
    start: float = 0.0
    effect: float = 0.0
    steps: int = 1


def draw_moves(rng: np.random.Generator, table: NDArray[np.float64], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Draw where tokens go, given a table (from, to) of probabilities and where they are."""
    return (rng.random(len(at))[:, None] > np.cumsum(table[at], axis=1)[:, :-1]).sum(axis=1)


def count_world(world: World, *, seed: int) -> list[tuple[TransitionResult, float]]:
    """Test every step of a world, and test it by exchanged names too."""
    rng = np.random.default_rng(seed)
    n = CONCEPTS + 1  # the last is no concept
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1) / SIDE
    radius = 1.2 * np.sqrt(world.share / np.pi) * rng.uniform(0.5, 1.5, IMAGES)
    centre = rng.random((2, IMAGES, 1))
    figure = np.hypot(y - centre[0], x - centre[1]) < radius[:, None]  # (image, token)
    slopes, noise = rng.normal(size=(3, IMAGES, n, 1)), rng.normal(size=(IMAGES, n, SIDE**2))
    preference = slopes[0] * y + slopes[1] * x + slopes[2] * 0.5 + 0.3 * noise
    preference[:, 0] += world.start * figure
    places = [preference.argmax(axis=1)]
    for _ in range(world.steps):
        base = rng.dirichlet(np.ones(n), n)
        rows = []
        for image, at in enumerate(places[-1]):
            table = np.stack([rng.dirichlet(8 * row + 0.05) for row in base]) if world.own else base
            moved = figure[image] & (rng.random(SIDE**2) < world.effect)
            rows.append(np.where(moved, draw_moves(rng, np.roll(base, 1, axis=1), at), draw_moves(rng, table, at)))
        places.append(np.array(rows))
    concepts = np.arange(CONCEPTS)
    masks = ExchangedMasks(figure.astype(np.int8), n_permutations=PERMUTATIONS, seed=seed)
    found = []
    for before, after in itertools.pairwise(places):
        counts = TransitionCounts(CONCEPTS, CONCEPTS, masks=masks)
        for image in range(IMAGES):
            counts.add(before[image, :, None] == concepts, after[image, :, None] == concepts, image=image)
        found.append((counts.finish(), exchange_names(before, after, figure, rng)))
    return found


def exchange_names(
    before: NDArray[np.int64], after: NDArray[np.int64], figure: NDArray[np.bool_], rng: np.random.Generator
) -> float:
    """Return p of the test that was replaced: figure and ground exchange their names in a random half of the images."""
    tables = np.zeros((IMAGES, 2, CONCEPTS + 1, CONCEPTS + 2), np.int64)
    image = np.broadcast_to(np.arange(IMAGES)[:, None], before.shape)
    np.add.at(tables, (image, 1 - figure, before, after), 1)
    np.add.at(tables, (image, 1 - figure, before, np.full_like(after, CONCEPTS + 1)), 1)
    tables = tables[:, :, :CONCEPTS]
    swap = rng.random((PERMUTATIONS, IMAGES)) < 0.5
    every = [np.where(s[:, None, None, None], tables[:, ::-1], tables).sum(axis=0) for s in swap]
    null = np.array([score_bifurcation(one[0], one[1]) for one in every])
    observed = tables.sum(axis=0)
    return float(count_as_extreme(null, np.float64(score_bifurcation(observed[0], observed[1]))))


def check_steps(world: World, *, seed: int) -> tuple[float, float, float]:
    """Return the lowest p, the lowest corrected p, and the lowest by exchanged names over the steps of a world."""
    found = count_world(world, seed=seed)
    null, observed = np.stack([r.null for r, _ in found], axis=1), np.array([r.bifurcation for r, _ in found])
    corrected = correct_for_highest(null, observed)
    return min(r.p for r, _ in found), float(np.nanmin(corrected)), min(p for _, p in found)


def check_concepts(effect: float, *, seed: int) -> tuple[float, float]:
    """Return p of the score and the lowest corrected p of a concept; the first ROI stands out by `effect`."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, ROIS, VOXELS)
    rois = label == np.arange(ROIS)[:, None]

    def fit(effect: float) -> NDArray[np.float64]:
        means = rng.normal(size=(6, ROIS))
        means[:, 0] += effect
        return rng.normal(size=(6, VOXELS)) + means[:, label]

    real, *controls = (score_roi_correspondence(fit(effect * (k == 0)), rois) for k in range(1 + CONTROLS))
    compared = compare_with_controls(real, controls)
    return compared.p, float(np.nanmin(compared.p_concept))


def share_rejected(test: Callable[[int], tuple[float, ...]], runs: int) -> list[float]:
    """Return in what share of the runs each p is at most 0.05."""
    return (np.array([test(seed) for seed in range(runs)]) <= 0.05).mean(axis=0).tolist()


def main() -> None:
    """Print a row per world."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    worlds = {
        f"null, foreground {share:.2f}, {'images differ' if own else 'images alike'}": World(share, own)
        for own in (False, True)
        for share in (0.05, 0.10, 0.25)
    }
    worlds |= {
        "null, foreground in other concepts": World(0.1, True, start=1),
        "null, five steps": World(0.1, True, steps=5),
        "effect, foreground 0.05, images differ": World(0.05, True, effect=0.5),
        "effect, foreground 0.10, images differ": World(0.10, True, effect=0.5),
        "effect, foreground 0.10, images alike": World(0.10, False, effect=0.5),
    }
    print(
        f"share of {runs} runs with p <= 0.05\n\n| transitions | p | corrected | exchanged names |\n|---|---|---|---|"
    )
    for name, world in worlds.items():
        row = share_rejected(lambda seed, world=world: check_steps(world, seed=seed), runs)
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True)
    print("\n| concepts | p | corrected, any concept |\n|---|---|---|")
    for name, effect in (("null, the fit is one more control", 0.0), ("effect", 4.0)):
        row = share_rejected(lambda seed, effect=effect: check_concepts(effect, seed=seed), runs)
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True)


if __name__ == "__main__":
    main()
