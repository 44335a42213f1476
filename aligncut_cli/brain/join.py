"""Joins the images of a feature store with the rows of the responses, by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aligncut_cli.errors import BadInput

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class JoinedImages:
    """Which image goes with which response.

    feature_rows           : (n,) ascending positions in the feature store
    response_rows          : (n,) row of the responses of each
    responses_without_image: rows that no image asks for
    """

    feature_rows: Index
    response_rows: Index
    responses_without_image: int


def join_images(feature_ids: Sequence[str], response_ids: Sequence[str] | None, *, n_responses: int) -> JoinedImages:
    """Match images and responses by name, never by position alone.

    feature_ids  : ids of the feature store: path below the images' folder without extension
    response_ids : one name per row, or None: row k belongs to the k-th image by name
    n_responses  : rows of the responses
    """
    if response_ids is None:
        return _join_by_order_of_names(feature_ids, n_responses)
    names, row_of = _match_names(feature_ids, response_ids)
    matched = [(position, row_of[name]) for position, name in enumerate(names) if name in row_of]
    lacking = [feature_ids[position] for position, name in enumerate(names) if name not in row_of]
    if not matched:
        raise BadInput(
            "No image of the features has a response.",
            why=f"Images are called {_few(feature_ids)}; responses belong to {_few(response_ids)}.",
            do="Extract features of the images that were shown, or name the rows with --image-ids ids.csv.",
        )
    if lacking:
        raise BadInput(
            f"{len(lacking):,} of {len(feature_ids):,} images have no response: {_few(lacking)}.",
            do="Extract only images that were shown: `extract` takes a .txt file that lists them.",
        )
    pairs = np.asarray(matched, dtype=np.int64)
    return JoinedImages(pairs[:, 0], pairs[:, 1], len(response_ids) - len(matched))


def _match_names(feature_ids: Sequence[str], response_ids: Sequence[str]) -> tuple[Sequence[str], dict[str, int]]:
    """Compare whole paths, or only their last parts where that matches more and stays unambiguous."""
    row_of = {name: row for row, name in enumerate(response_ids)}
    n_whole = sum(name in row_of for name in feature_ids)
    if n_whole == len(feature_ids):
        return feature_ids, row_of
    bases = [name.rsplit("/", 1)[-1] for name in feature_ids]
    response_bases = [name.rsplit("/", 1)[-1] for name in response_ids]
    row_of_base = {name: row for row, name in enumerate(response_bases)}
    if sum(name in row_of_base for name in bases) <= n_whole:
        return feature_ids, row_of
    for names, other in ((bases, row_of_base), (response_bases, set(bases))):
        repeated = [name for name, count in Counter(names).items() if count > 1 and name in other]
        if repeated:
            raise BadInput(
                f"Several images are called {repeated[0]} in different folders, so whose response is whose is open.",
                do="Extract features of one folder, or write whole paths into --image-ids.",
            )
    return bases, row_of_base


def _join_by_order_of_names(feature_ids: Sequence[str], n_responses: int) -> JoinedImages:
    if len(feature_ids) != n_responses:
        raise BadInput(
            f"There are {len(feature_ids):,} images but {n_responses:,} rows of responses.",
            why="Without names, row k belongs to the k-th image by name, so the counts must agree.",
            do="Extract all images that were shown, or name the rows with --image-ids ids.csv.",
        )
    order = sorted(range(n_responses), key=lambda position: feature_ids[position])
    counted = sorted(range(n_responses), key=lambda position: _split_numbers(feature_ids[position]))
    if [feature_ids[i] for i in order] != [feature_ids[i] for i in counted]:
        where = next(k for k in range(n_responses) if feature_ids[order[k]] != feature_ids[counted[k]])
        raise BadInput(
            f"'The k-th image by name' is ambiguous: row {where} is {feature_ids[order[where]]} in alphabetical order, "
            f"but {feature_ids[counted[where]]} by number.",
            do="Say which image each row belongs to with --image-ids ids.csv.",
        )
    response_rows = np.empty(n_responses, dtype=np.int64)
    response_rows[order] = np.arange(n_responses)
    return JoinedImages(np.arange(n_responses), response_rows, 0)


def _split_numbers(name: str) -> list[tuple[bool, int, str]]:
    """Sort key under which image10 comes after image2."""
    parts = re.split(r"([0-9]+)", name)
    return [(k % 2 == 0, int(part) if k % 2 else 0, part) for k, part in enumerate(parts) if part]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
