"""Brain responses as one table of images x voxels, whichever way they lie on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain.algonauts import find_subject, read_subject
from aligncut_cli.brain.ceiling import read_noise_ceiling
from aligncut_cli.brain.files import split_dataset
from aligncut_cli.brain.generic import Layout, read_generic
from aligncut_cli.brain.rois import read_rois
from aligncut_cli.brain.rows import Block, is_volume, read_slabs
from aligncut_cli.brain.table import Bool, Index, Responses
from aligncut_cli.errors import BadInput, UsageError

LARGEST = 1e15
"""Squares of larger responses, summed over images, leave float32."""


def load_responses(
    path: Path,
    *,
    image_ids: Path | None = None,
    rois: Path | None = None,
    noise_ceiling: Path | None = None,
    drop_nan_voxels: bool = False,
    drop_nan_images: bool = False,
    average_repeats: bool = False,
) -> Responses:
    """Read an Algonauts 2023 subject, NSD's betas by session, or a table of images x voxels in any of several formats.

    path            : the folder or file, or FILE::DATASET
    image_ids       : CSV with one image name per row of the responses (not for Algonauts)
    rois            : JSON or npz of named voxel sets; adds to or replaces those of an Algonauts folder
    noise_ceiling   : (voxels,), explainable share of variance in [0, 1], or NSD's ncsnr, told by its name
    drop_nan_voxels : leave out voxels that are not finite for some image, instead of refusing
    drop_nan_images : leave out images, or trials, that no voxel of some block has a response to, instead of refusing
    average_repeats : average rows that name the same image, instead of refusing; always for NSD's trials
    """
    layout, named = _open_layout(path, image_ids)
    total = sum(block.shape[1] for block in layout.blocks)
    if rois is not None:
        named.update(read_rois(rois, n_voxels=total))
    gaps = _find_gaps(path, layout.blocks)
    if gaps.rows.all():
        raise _nothing_left(path)
    if gaps.rows.any() and not drop_nan_images:
        raise _missing_rows(path, gaps.rows, layout.names)
    ids, image_of_row, usable = _group_rows(layout, gaps.rows, average=average_repeats or layout.trials)
    repeats = _count_repeats(image_of_row)
    files = layout.ceiling if noise_ceiling is None else (noise_ceiling,)
    ceiling = read_noise_ceiling(files, n_voxels=total, repeats=repeats) if files else None

    bad = gaps.voxels if ceiling is None else gaps.voxels | ~(np.isfinite(ceiling) | gaps.outside)
    if bad.any() and not drop_nan_voxels:
        raise BadInput(
            f"{path}: {bad.sum():,} of {total:,} voxels are NaN or infinite for some image (first: {bad.argmax()}).",
            why="A voxel without a response to every image cannot be fitted.",
            do="Leave those voxels out with --drop-nan-voxels.",
        )
    bad |= gaps.outside
    if bad.all():
        raise _nothing_left(path)
    kept = np.flatnonzero(~bad)
    record = dict(layout.record) | {
        "images": layout.blocks[0].shape[0] if ids is None else len(ids),
        "voxels": len(kept),
        "dropped_voxels": int(bad.sum()),
        "rois": {name: int(mask[kept].sum()) for name, mask in named.items()},
    }
    if gaps.rows.any():
        record["dropped_rows"] = int(gaps.rows.sum())
    if image_of_row is not None:
        record["repeats"] = {"least": int(repeats.min()), "most": int(repeats.max())}
    return Responses(
        blocks=layout.blocks,
        kept=kept,
        ids=ids,
        rois={name: mask[kept] for name, mask in named.items()},
        noise_ceiling=None if ceiling is None else ceiling[kept],
        record=record,
        image_of_row=image_of_row,
        usable=usable,
    )


def _open_layout(path: Path, image_ids: Path | None) -> tuple[Layout, dict[str, Bool]]:
    """Return rows as they lie on disk, and the ROIs that come with them."""
    if not split_dataset(path)[0].exists():
        raise BadInput(f"{path}: no such file or folder.", do="Give --responses an Algonauts subject or an .npy file.")
    subject = find_subject(path)
    if subject is None:
        layout = read_generic(path, image_ids=image_ids)
        return layout, dict(layout.rois)
    if image_ids is not None:
        raise UsageError(
            "--image-ids cannot be given for an Algonauts folder: its image names say which row is theirs."
        )
    table = read_subject(subject)
    return Layout(table.blocks, table.ids, dict(table.record)), dict(table.rois)


@dataclass(frozen=True)
class _Gaps:
    """What has no finite response.

    rows    : (rows,) True where all voxels of some block are missing
    voxels  : (voxels,) True where a voxel misses in some other row
    outside : (voxels,) True where a voxel of a volume is zero or missing everywhere, as outside the brain
    """

    rows: Bool
    voxels: Bool
    outside: Bool


def _find_gaps(path: Path, blocks: tuple[Block, ...]) -> _Gaps:
    """Look through all responses once; sizes that float32 cannot square are refused."""
    n_rows = blocks[0].shape[0]
    rows = np.zeros(n_rows, dtype=bool)
    voxels, outside = [], []
    for block in blocks:
        bad = np.zeros(block.shape[1], dtype=bool)
        empty = np.ones(block.shape[1], dtype=bool)
        lacking = np.zeros(n_rows, dtype=bool)
        largest = 0.0
        for first, values in read_slabs(block):
            finite = np.isfinite(values)
            none = ~finite.any(axis=1)
            lacking[first : first + len(values)] = none
            bad |= ~finite[~none].all(axis=0)
            if is_volume(block):
                empty &= ~(finite & (values != 0)).any(axis=0)
            high, low = (find(values, initial=0, where=finite) for find in (np.max, np.min))
            largest = max(largest, float(high), -float(low))
        _require_size(path, largest)
        rows |= lacking
        outside.append(empty if is_volume(block) else np.zeros(len(bad), dtype=bool))
        voxels.append(bad & ~outside[-1])
    return _Gaps(rows, np.concatenate(voxels), np.concatenate(outside))


def _require_size(path: Path, largest: float) -> None:
    if largest > LARGEST or 0 < largest < 1 / LARGEST:
        raise BadInput(
            f"{path}: the largest response is {largest:.3g} in size.",
            why=f"They are computed with in float32, whose squares need sizes from {1 / LARGEST:g} to {LARGEST:g}.",
            do="Save them in another unit, for example divided by their standard deviation.",
        )


def _nothing_left(path: Path) -> BadInput:
    return BadInput(f"{path}: every voxel is NaN or infinite for some image; nothing is left.")


def _missing_rows(path: Path, rows: Bool, names: list[str] | None) -> BadInput:
    first = int(rows.argmax())
    named = f" ({names[first]})" if names is not None else ""
    ended = int(np.argmin(np.append(rows[first:], False)))
    several = f", as have the {ended - 1:,} rows after it" if ended > 1 else ""
    return BadInput(
        f"{path}: {rows.sum():,} of {len(rows):,} rows have no response in any voxel: row {first}{named}{several}.",
        why="Rows count from 0. A session that is missing, or a run that was left out, looks so.",
        do="Add what is missing, or leave those images out with --drop-nan-images.",
    )


def _group_rows(layout: Layout, lacking: Bool, *, average: bool) -> tuple[list[str] | None, Index | None, Bool | None]:
    """Return the name of each image, which image each row is of, and which images are used.

    Images are in the order of their first rows; a row that is missing is no part of its image's average.
    """
    names = layout.names
    if names is None:
        return None, None, ~lacking if lacking.any() else None
    place: dict[str, int] = {}
    image_of_row = np.array([place.setdefault(name, len(place)) for name in names], dtype=np.int64)
    if len(place) == len(names):
        return names, None, ~lacking if lacking.any() else None
    if not average:
        counts = np.bincount(image_of_row)
        repeated = list(place)[int(np.argmax(counts > 1))]
        raise BadInput(
            f"{layout.record.get('responses', 'the responses')}: the rows name {repeated!r} more than once.",
            do="Average the rows of each image: --average-repeats",
        )
    image_of_row[lacking] = -1
    used = np.zeros(len(place), dtype=bool)
    used[image_of_row[image_of_row >= 0]] = True
    return list(place), image_of_row, used if not used.all() else None


def _count_repeats(image_of_row: Index | None) -> npt.NDArray[Any]:
    """Return how many rows each used image is the average of, (images,); a single 1 where rows are images."""
    if image_of_row is None:
        return np.ones(1, dtype=np.int64)
    counts = np.bincount(image_of_row[image_of_row >= 0])
    return counts[counts > 0]
