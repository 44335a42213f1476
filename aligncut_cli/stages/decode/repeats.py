"""What the repeats of an image tell: one half of them is looked for among the other halves of all images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.brain.table import Responses
from aligncut_cli.maths.repeats import halve_repeats
from aligncut_cli.maths.retrieval import order_ties, retrieve, standardize_rows
from aligncut_cli.stages.decode.scores import Question

Floats = NDArray[np.float32]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Repeats:
    """Images with several presentations.

    images : (n,) their numbers among those that take part, ascending
    rows   : (n,) of the responses' images
    half   : (presentations,) the half that each is in
    """

    responses: Responses
    images: Index
    rows: Index
    half: Index

    @classmethod
    def find(cls, responses: Responses, rows: Index) -> Repeats | None:
        """Return None where fewer than two images have repeats.

        rows : (images,) where each image that takes part lies in the responses
        """
        if responses.image_of_row is None:
            return None
        half = halve_repeats(responses.image_of_row)
        repeated = np.unique(responses.image_of_row[half == 1])
        images = np.flatnonzero(np.isin(rows, repeated))
        return cls(responses, images, rows[images], half) if len(images) > 1 else None

    def read(self) -> tuple[Floats, Floats]:
        """Return averages over either half, (n, neurons)."""
        first, second = (self.responses.read_half(self.rows, self.half, half) for half in (0, 1))
        return first, second


def rank_repeats(first: Floats, second: Floats, images: Index, question: Question) -> NDArray[np.int32]:
    """Return the place, from 1, of each image's own other half among those of its fold; 0 of images without repeats.

    Each half is z-scored over all images, which takes out what all have in common.

    first, second : (n, neurons)
    images        : (n,) their numbers among all
    """
    halves = []
    for values in (first, second):
        deviation = values.std(axis=0)
        halves.append((values - values.mean(axis=0)) / np.where(deviation > 0, deviation, np.inf))
    ranks = np.zeros(question.n_images, dtype=np.int32)
    for fold, split in enumerate(question.splits):
        own = np.flatnonzero(np.isin(images, split.test))
        if not len(own):
            continue
        found = retrieve(
            standardize_rows(halves[0][own]),
            standardize_rows(halves[1][own]),
            ties=order_ties(len(own), seed=question.params.seed, fold=fold),
            exchanges=np.empty((0, len(own)), np.int32),
            tables=np.empty((0, len(own))),
        )
        ranks[images[own]] = found.rank + 1
    return ranks
