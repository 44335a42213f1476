"""Scores of one run: ranks of all folds put together, with intervals, null, evidence, subsets and categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import UsageError
from aligncut_cli.maths.neuron_evidence import draw_subsets, share_evidence
from aligncut_cli.maths.permutations import count_as_extreme
from aligncut_cli.maths.retrieval import Retrieval, count_first, exchange_pairs, order_ties, retrieve
from aligncut_cli.maths.retrieval_scores import (
    MEDIAN,
    PAIRWISE,
    TOPS,
    bootstrap_ranks,
    chance_of_top,
    credit_pairwise,
    credit_top,
    expect_rank,
    wilson_interval,
)
from aligncut_cli.maths.split_images import ImageSplit
from aligncut_cli.params import DecodeParams
from aligncut_cli.stages.decode.folds import FoldFit
from aligncut_cli.store.kinds.decoding import CATEGORY, MEANINGS, TESTED

Double = NDArray[np.float64]
Index = NDArray[np.int64]
ALL = "all"


def parse_candidates(text: str, splits: Sequence[ImageSplit]) -> list[int | None]:
    """Read `10,100,all` as numbers of candidates, None for all of a fold.

    raises : UsageError where it cannot be read, or a fold has fewer images
    """
    least = min(len(split.test) for split in splits)
    found: list[int | None] = []
    for part in (piece.strip() for piece in text.split(",")):
        if part == ALL:
            found.append(None)
            continue
        if not part.isdecimal() or not 2 <= int(part) <= least:
            raise UsageError(
                f"--candidates {text}: {part!r} is no number of candidates from 2 to {least}",
                why=f"The smallest of {len(splits)} folds holds out {least} images.",
                do=f"Write numbers up to {least}, or all: --candidates 10,all",
            )
        found.append(int(part))
    return list(dict.fromkeys(found))


def parse_neurons(text: str | None, n_neurons: int) -> list[int]:
    """Read `10,20,40` as sizes of subsets of neurons.

    raises : UsageError where it cannot be read, or there are no more neurons than that
    """
    sizes = []
    for part in (piece.strip() for piece in text.split(",")) if text else ():
        if not part.isdecimal() or not 2 <= int(part) < n_neurons:
            raise UsageError(
                f"--neurons {text}: {part!r} is no size of a subset of {n_neurons} neurons",
                do=f"Write numbers from 2 to {n_neurons - 1}, such as --neurons {max(2, n_neurons // 4)}.",
            )
        sizes.append(int(part))
    return sorted(set(sizes))


@dataclass(frozen=True)
class Question:
    """What all runs are asked: candidates, exchanges and subsets are the same for each.

    splits     : of every fold; every image is in one test part
    candidates : of each score; None is all of a fold
    sizes      : of subsets of neurons
    categories : (images,) or None
    """

    splits: Sequence[ImageSplit]
    candidates: Sequence[int | None]
    sizes: Sequence[int]
    categories: Index | None
    params: DecodeParams

    @property
    def n_images(self) -> int:
        """Return how many images are held out over all folds."""
        return sum(len(split.test) for split in self.splits)

    def chance(self, name: str, candidates: int | None) -> float:
        """Return what guessing scores."""
        if name == PAIRWISE:
            return 0.5
        numbers = [(candidates or len(split.test), len(split.test)) for split in self.splits]
        if name == MEDIAN:
            return float(np.median(np.repeat([(k + 1) / 2 for k, _ in numbers], [n for _, n in numbers])))
        return float(
            np.average([chance_of_top(k, top=TOPS[name]) for k, _ in numbers], weights=[n for _, n in numbers])
        )

    def tables(self, n: int) -> Double:
        """Return what a rank is worth in a fold of n images, (candidates x TESTED, n)."""
        rows = []
        for candidates in self.candidates:
            for name in TESTED:
                tail = credit_pairwise(n) if name == PAIRWISE else None
                rows.append(credit_top(n, candidates=candidates or n, top=TOPS[name]) if tail is None else tail)
        return np.stack(rows)


class RunScores:
    """One run's folds, ranked.

    fits : of every fold, in the order of the question's splits
    """

    def __init__(self, question: Question, fits: Sequence[FoldFit]) -> None:
        self.question, self.fits = question, fits
        params = question.params
        self.exchanges = [
            exchange_pairs(len(split.test), n_exchanges=params.permutations, seed=params.seed, fold=fold)
            for fold, split in enumerate(question.splits)
        ]
        self.folds = [self._retrieve(fold, fit) for fold, fit in enumerate(fits)]

    def _retrieve(self, fold: int, fit: FoldFit) -> Retrieval:
        n, seed = len(fit.responses), self.question.params.seed
        queries, candidates = fit.compare()
        return retrieve(
            queries,
            candidates,
            ties=order_ties(n, seed=seed, fold=fold),
            exchanges=self.exchanges[fold],
            tables=self.question.tables(n),
        )

    def gather(self, values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Put values (n, ...) of each fold's held-out images in the order of all images."""
        out = np.empty((self.question.n_images, *values[0].shape[1:]), dtype=values[0].dtype)
        for split, part in zip(self.question.splits, values, strict=True):
            out[split.test] = part
        return out

    @property
    def ranks(self) -> NDArray[Any]:
        """Return (images,) the seen image's place, from 1."""
        return self.gather([fold.rank + 1 for fold in self.folds])

    def named(self, which: str) -> NDArray[Any]:
        """Return (images,) the image that is `best` or nearest `wrong`, by its number among all."""
        tests = [split.test for split in self.question.splits]
        return self.gather([test[getattr(fold, which)] for test, fold in zip(tests, self.folds, strict=True)])

    @cached_property
    def _worth(self) -> Double:
        """Return what each image's rank is worth, (candidates, TESTED, images)."""
        parts = [self.question.tables(len(fold.rank))[:, fold.rank] for fold in self.folds]
        joined = np.concatenate(parts, axis=1)
        return joined.reshape(len(self.question.candidates), len(TESTED), -1)

    def score(self) -> dict[str, Double]:
        """Return by name of a score (candidates, 3): value, low and high."""
        params, n = self.question.params, self.question.n_images
        out = {name: np.empty((len(self.question.candidates), 3)) for name in MEANINGS}
        for at, candidates in enumerate(self.question.candidates):
            for name, worth in zip(TESTED, self._worth[at], strict=True):
                bounds = wilson_interval(float(worth.mean()), n)
                out[name][at] = worth.mean(), bounds.low, bounds.high
            places = np.concatenate(
                [expect_rank(f.rank, len(f.rank), candidates=candidates or len(f.rank)) for f in self.folds]
            )
            pairwise = self._worth[at, TESTED.index(PAIRWISE)]
            median, choice = bootstrap_ranks(places, pairwise, n_draws=params.draws, seed=params.seed)
            out[MEDIAN][at] = np.median(places), median.low, median.high
            out[PAIRWISE][at, 1:] = choice.low, choice.high
        return out

    def null(self) -> Double:
        """Return the scores of every exchange, (candidates, TESTED, exchanges)."""
        total: Double = np.sum([fold.null for fold in self.folds], axis=0) / self.question.n_images
        return total.reshape(len(self.question.candidates), len(TESTED), -1)

    def p_values(self) -> Double:
        """Return (candidates, TESTED): the share of exchanges that score as high, the true pairs among them."""
        return count_as_extreme(np.moveaxis(self.null(), 2, 0), self._worth.mean(axis=2))

    def evidence(self) -> Double:
        """Return (neurons,): each one's share of the margin of the seen image, mean over images."""
        sizes = [len(fit.responses) for fit in self.fits]
        parts = [
            share_evidence(fit.scaled_responses(), fit.compare()[1], fit.weight if fit.by_map else None)
            for fit in self.fits
        ]
        return np.asarray(np.average(parts, axis=0, weights=sizes), dtype=np.float64)

    def subsets(self) -> tuple[Double, Double, Double]:
        """Return top-1 of the most responsive neurons (size,), of random ones (size, subset), and p (size,)."""
        params, n = self.question.params, self.question.n_images
        n_neurons = self.fits[0].responses.shape[1]
        orders = [np.argsort(-fit.activity, kind="stable") for fit in self.fits]
        top = np.zeros(len(self.question.sizes))
        random = np.zeros((len(self.question.sizes), params.subsets))
        for at, size in enumerate(self.question.sizes):
            drawn = draw_subsets(n_neurons, size, n_subsets=params.subsets, seed=params.seed)
            for fit, order in zip(self.fits, orders, strict=True):
                top[at] += count_first(*fit.select(np.sort(order[:size])).compare()) / n
                random[at] += [count_first(*fit.select(subset).compare()) / n for subset in drawn]
        return top, random, count_as_extreme(random.T, top)

    def categories(self, categories: Index) -> tuple[dict[str, Double], dict[str, float], float]:
        """Return how often retrieved and nearest wrong images are of the seen one's category: 3 bounds each; chance; p.

        categories : (images,)
        """
        n = self.question.n_images
        hits: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in CATEGORY}
        guessed: dict[str, list[Double]] = {name: [] for name in CATEGORY}
        null = np.zeros(self.question.params.permutations)
        for split, fold, exchanges in zip(self.question.splits, self.folds, self.exchanges, strict=True):
            own = categories[split.test]
            same = np.bincount(own)[own]
            hits["right"].append(own[fold.best] == own)
            hits["nearest_wrong"].append(own[fold.wrong] == own)
            guessed["right"].append(same / len(own))
            guessed["nearest_wrong"].append((same - 1) / (len(own) - 1))
            null += [float((own[fold.best] == own[row]).sum()) / n for row in exchanges]
        values = {}
        for name, parts in hits.items():
            share = float(np.concatenate(parts).mean())
            bounds = wilson_interval(share, n)
            values[name] = np.array([share, bounds.low, bounds.high])
        chance = {name: float(np.concatenate(parts).mean()) for name, parts in guessed.items()}
        return values, chance, float(count_as_extreme(null, values["right"][0]))
