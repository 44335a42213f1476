"""What pictures and report show of a decoding: top-1 against candidates, against neurons, and where neurons look."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.retrieval_scores import chance_of_top, top_by_candidates
from aligncut_cli.store.kinds.decoding import EVIDENCE, FOLD, LOOK, RANDOM, RANK, SIZE, TOP, Decoding

Double = NDArray[np.float64]
USUAL = (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
SHOWN_NEURONS = 24


class Curves:
    """Figures of a finished decoding."""

    def __init__(self, decoding: Decoding) -> None:
        self.decoding = decoding
        self.runs = decoding.runs

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Return how many candidates each image has, (images,)."""
        fold = self.decoding.read(FOLD).astype(np.int64)
        return np.asarray(np.bincount(fold)[fold], dtype=np.int64)

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of candidates of the curves, up to all of the largest fold."""
        most = int(self._sizes.max())
        return [*(number for number in USUAL if number < most), most]

    def by_candidates(self) -> dict[str, Double]:
        """Return top-1 of every run, (numbers,)."""
        ranks = self.decoding.read(RANK).astype(np.int64) - 1
        return {
            name: top_by_candidates(rank, self._sizes, self.numbers)
            for name, rank in zip(self.runs, ranks, strict=True)
        }

    def chance(self) -> Double:
        """Return what guessing scores, (numbers,)."""
        return np.array([chance_of_top(number, top=1) for number in self.numbers])

    def by_neurons(self) -> tuple[list[int], dict[str, Double], dict[str, Double]]:
        """Return sizes, top-1 of the most responsive neurons (size,) and of random ones (size, subset), by run."""
        if not self.decoding.has(SIZE):
            return [], {}, {}
        top, random = (self.decoding.read(array).astype(np.float64) for array in (TOP, RANDOM))
        sizes = [int(size) for size in self.decoding.read(SIZE)]
        return sizes, dict(zip(self.runs, top, strict=True)), dict(zip(self.runs, random, strict=True))

    def evidence(self) -> dict[str, Double]:
        """Return the evidence of every neuron, (neurons,), by run."""
        return dict(zip(self.runs, self.decoding.read(EVIDENCE).astype(np.float64), strict=True))

    def look(self, tower: str) -> tuple[list[str], NDArray[Any]]:
        """Return names and maps (neuron, row, column) of the neurons that matter most for a run by towers."""
        evidence = self.evidence()[tower]
        chosen = np.argsort(-evidence, kind="stable")[:SHOWN_NEURONS]
        maps = self.decoding.read(LOOK, tower)[chosen]
        return [f"neuron {number}" for number in chosen], maps
