"""What the report shows of `compare`: how alike layers describe the same token, by each measure, before and after."""

from __future__ import annotations

import itertools

import numpy as np

from aligncut_cli.maths.slot_similarity import mean_between_models
from aligncut_cli.stages.blocks import Files, PageBlock, Section, Square, describe_folder, square_block
from aligncut_cli.store.read import Store

MEANINGS = {
    "similarity": (
        "Cosine similarity of the same token between layers",
        "Each cell is the mean over tokens of the cosine between their channels in two layers: 1 where these are the "
        "same direction, 0 where they are at right angles. ",
    ),
    "cka": (
        "Linear CKA of layers",
        "Each cell is the linear centred kernel alignment of two layers, less what the number of channels alone gives: "
        "1 where they are the same but for a rotation and a scale, 0 by chance. No rotation changes it, and it is of "
        "the features before alignment. Shuffled: every layer was given other images. ",
    ),
    "cca": (
        "Canonical correlations of layers",
        "Each cell is the mean canonical correlation of two layers' leading components: 1 where one is a linear map of "
        "the other. No invertible alignment changes it. Shuffled, where every layer was given other images, is what "
        "chance gives. ",
    ),
}
"""By the first word of a table's name: the title of its heat maps, and what a cell means."""


def describe_compare(store: Store, files: Files) -> list[PageBlock]:
    """Tables by slot as heat maps, those of one measure side by side; then what else is there."""
    return describe_folder(store, files, describe_squares=_group_by_measure)


def _group_by_measure(squares: list[Square]) -> list[PageBlock]:
    blocks = []
    for measure, group in itertools.groupby(sorted(squares, key=_measure_of), key=_measure_of):
        found = list(group)
        title, meaning = MEANINGS.get(measure, (found[0][0], ""))
        blocks.append(square_block(title, found, meaning + " ".join(map(_say_mean, found))))
    return sorted(blocks, key=lambda block: block["title"] != MEANINGS["similarity"][0])


def _measure_of(square: Square) -> str:
    return square[0].split()[0]


def _say_mean(square: Square) -> str:
    """Say the mean between layers of different models; nothing where there is one model."""
    title, labels, values = square
    matrix = np.array([[np.nan if value is None else value for value in row] for row in values], np.float64)
    mean = mean_between_models(matrix, [label.rpartition(":")[0] for label in labels])
    return "" if mean is None else f"{title.capitalize()}: {mean:.3f} on average between layers of different models."


SECTION = Section(
    "slots",
    "Similarity of layers",
    "The same token in every pair of layers.",
    describe_compare,
    lambda store: store.record.get("stage") == "compare",
)
