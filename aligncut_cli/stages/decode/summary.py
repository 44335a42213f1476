"""The figures of a decoding for its record: every run's scores among all candidates, subsets, categories, repeats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.neuron_evidence import count_effective
from aligncut_cli.maths.retrieval_scores import TOPS, wilson_interval
from aligncut_cli.stages.decode.runs import Run
from aligncut_cli.stages.decode.scores import Question
from aligncut_cli.store.kinds.decoding import (
    CATEGORY,
    CATEGORY_CHANCE,
    CATEGORY_P,
    EVIDENCE,
    RANDOM,
    REPEAT_CEILING,
    REPEAT_RANK,
    SCORES,
    SUBSET_P,
    TOP,
    P,
)

Read = Callable[[str, Any], NDArray[Any]]
"""Reads an array of the store, by its path and a selection."""


def summarize(
    read: Read,
    runs: Sequence[Run],
    question: Question,
    fits: Sequence[Sequence[Mapping[str, Any]]],
    *,
    repeats: bool,
) -> dict[str, Any]:
    """Return what the record keeps and the tables show; scores are those among the last number of candidates.

    fits    : of every run, what each fold's fit recorded
    repeats : whether there are repeats of images
    """
    found = [_summarize_run(read, index, run, question, fits[index]) for index, run in enumerate(runs)]
    number = question.candidates[-1]
    best = max((run for run in found if not run["shuffled"]), key=lambda run: run["top1"][0])
    chance = {name: question.chance(name, number) for name in SCORES}
    return {
        "images": question.n_images,
        "neurons": len(read(EVIDENCE.at(), (0,))),
        "folds": len(question.splits),
        "candidates": number or max(len(split.test) for split in question.splits),
        "best_run": best["run"],
        "best_top1": best["top1"][0],
        "best_top1_p": best["p"]["top1"],
        "chance_top1": chance["top1"],
        **({"repeats": _summarize_repeats(read)} if repeats else {}),
        "chance": chance,
        "runs": found,
    }


def _summarize_run(
    read: Read, index: int, run: Run, question: Question, fits: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "run": run.name,
        "method": run.method,
        "shuffled": run.shuffled,
        **{name: list(map(float, read(array.at(), (index,))[-1])) for name, array in SCORES.items()},
        "p": {name: float(read(array.at(), (index,))[-1]) for name, array in P.items()},
        "effective_neurons": count_effective(read(EVIDENCE.at(), (index,))),
        "fits": list(fits),
    }
    if question.sizes:
        top, random, p = (read(array.at(), (index,)) for array in (TOP, RANDOM, SUBSET_P))
        columns = zip(question.sizes, top, random.mean(axis=1), p, strict=True)
        found["neurons"] = [
            {"size": size, "top": float(a), "random": float(b), "p": float(c)} for size, a, b, c in columns
        ]
    if question.categories is not None:
        found["category"] = {
            name: {
                "share": list(map(float, read(CATEGORY[name].at(), (index,)))),
                "chance": float(read(CATEGORY_CHANCE[name].at(), (index,))),
            }
            for name in CATEGORY
        } | {"p": float(read(CATEGORY_P.at(), (index,)))}
    return found


def _summarize_repeats(read: Read) -> dict[str, Any]:
    """Return what one half of the repeats tells of the other, among all candidates of a fold."""
    ranks = read(REPEAT_RANK.at(), ...)
    ranks = ranks[ranks > 0]
    found: dict[str, Any] = {"images": len(ranks)}
    for name, top in TOPS.items():
        share = float((ranks <= top).mean())
        bounds = wilson_interval(share, len(ranks))
        found[name] = [share, bounds.low, bounds.high]
    found["median_rank"] = float(np.median(ranks))
    found["median_ceiling"] = float(np.median(read(REPEAT_CEILING.at(), ...)))
    return found
