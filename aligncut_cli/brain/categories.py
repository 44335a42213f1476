"""Which category each image belongs to: a table with a column of image names and one of categories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain.text import NAME_COLUMNS, read_text_table
from aligncut_cli.errors import BadInput
from aligncut_cli.images.names import strip_image_suffix

CATEGORY_COLUMNS = ("category", "class", "label", "group")
_DO = "Write a CSV with the columns image and category, a row per image."


def read_categories(path: Path, ids: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Read the category of every image.

    path    : CSV with a column named by NAME_COLUMNS and one by CATEGORY_COLUMNS, or with these two first in a row
    ids     : of the images
    returns : the names of the categories that occur, sorted, and (images,) their indices
    raises  : BadInput where an image has none, or two
    """
    table = read_text_table(path)
    name_at, category_at = table.column(*NAME_COLUMNS) or 0, table.column(*CATEGORY_COLUMNS)
    if category_at is None:
        category_at = 1 if name_at == 0 else 0
    if any(len(row) <= max(name_at, category_at) for row in table.rows):
        raise BadInput(f"{path}: a row has no category.", do=_DO)
    known: dict[str, str] = {}
    for row in table.rows:
        name, category = strip_image_suffix(row[name_at]), row[category_at]
        if known.setdefault(name, category) != category:
            raise BadInput(f"{path}: gives {name} two categories, {known[name]} and {category}.", do=_DO)
    wanted = [strip_image_suffix(name) for name in ids]
    if not any(name in known for name in wanted):  # perhaps without their folders
        wanted = [name.rpartition("/")[2] for name in wanted]
    lacking = [name for name in wanted if name not in known]
    if lacking:
        raise BadInput(
            f"{path}: {len(lacking):,} of {len(ids):,} images have no category, such as {lacking[0]}.", do=_DO
        )
    names = sorted({known[name] for name in wanted})
    if len(names) < 2:
        raise BadInput(f"{path}: all images are of one category, {names[0]}.", do=_DO)
    index = {name: place for place, name in enumerate(names)}
    return names, np.array([index[known[name]] for name in wanted], dtype=np.int64)
