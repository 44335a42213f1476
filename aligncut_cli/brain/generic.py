"""Reads responses in the plain form: one .npy of images x voxels, with or without a list of image names."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from aligncut_cli.brain.arrays import open_npy
from aligncut_cli.brain.table import Responses
from aligncut_cli.errors import BadInput
from aligncut_cli.images.names import strip_image_suffix


def read_generic(path: Path, *, image_ids: Path | None) -> Responses:
    """Read responses.npy: row k belongs to the k-th image by name, or to the k-th name of a CSV.

    path      : the .npy file, or a folder with responses.npy in it
    image_ids : CSV with one name per row, in its first column or in a column called id or image
    """
    file = path / "responses.npy" if path.is_dir() else path
    if not file.is_file():
        raise BadInput(
            f"{path}: holds no responses.",
            why="It is neither an Algonauts 2023 subject (training_split/training_fmri) nor a folder of responses.npy.",
            do="Give the subject's folder, or save an array images x voxels with numpy.save.",
        )
    values = open_npy(file, axes=("images", "voxels"))
    ids = None if image_ids is None else read_image_ids(image_ids)
    if ids is not None and len(ids) != len(values):
        raise BadInput(f"{image_ids}: names {len(ids):,} images, but {file} has {len(values):,} rows.")
    record = {"form": "generic", "responses": file.name, "joined_by": "order of names" if ids is None else "image ids"}
    return Responses((values,), np.arange(values.shape[1]), ids, {}, None, record)


def read_image_ids(path: Path) -> list[str]:
    """Read one image name per row of a CSV, without its extension; a header `id` or `image` is recognised."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file.", do="Check --image-ids.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: is not a CSV file ({error}).") from error
    column = 0
    if rows:
        header = [cell.strip().lower() for cell in rows[0]]
        for name in ("id", "image", "image_id", "path"):
            if name in header:
                column, rows = header.index(name), rows[1:]
                break
    short = [number for number, row in enumerate(rows, 1) if len(row) <= column or not row[column].strip()]
    if short:
        raise BadInput(f"{path}: row {short[0]} names no image.")
    ids = [strip_image_suffix(row[column].strip()) for row in rows]
    if not ids:
        raise BadInput(f"{path}: names no images.")
    repeated = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if repeated:
        raise BadInput(
            f"{path}: names {repeated[0]!r} more than once.", do="Average repeats before, one row per image."
        )
    return ids
