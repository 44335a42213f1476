"""Brain responses as one table of images x voxels, whichever way they lie on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain.algonauts import find_subject, read_subject
from aligncut_cli.brain.arrays import open_npy
from aligncut_cli.brain.generic import read_generic
from aligncut_cli.brain.rois import read_rois
from aligncut_cli.brain.table import Bool, Float, Responses
from aligncut_cli.errors import BadInput, UsageError

_VALUES_PER_BLOCK = 1 << 25


def load_responses(
    path: Path,
    *,
    image_ids: Path | None = None,
    rois: Path | None = None,
    noise_ceiling: Path | None = None,
    drop_nan_voxels: bool = False,
) -> Responses:
    """Read an Algonauts 2023 subject, a folder with responses.npy, or one .npy file.

    path            : the folder or file
    image_ids       : CSV with one image name per row of the responses (generic form only)
    rois            : JSON or npz of named voxel sets; adds to or replaces those of an Algonauts folder
    noise_ceiling   : .npy (voxels,), explainable share of variance in [0, 1]
    drop_nan_voxels : leave out voxels that are not finite for some image, instead of refusing
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder.", do="Give --responses an Algonauts subject or an .npy file.")
    subject = find_subject(path)
    if subject is None:
        table = read_generic(path, image_ids=image_ids)
    elif image_ids is not None:
        raise UsageError(
            "--image-ids cannot be given for an Algonauts folder: its image names say which row is theirs."
        )
    else:
        table = read_subject(subject)

    total = sum(block.shape[1] for block in table.blocks)
    named = dict(table.rois)
    if rois is not None:
        named.update(read_rois(rois, n_voxels=total))
    ceiling = None if noise_ceiling is None else _read_noise_ceiling(noise_ceiling, n_voxels=total)

    bad = _find_voxels_with_gaps(table.blocks)
    if ceiling is not None:
        bad |= ~np.isfinite(ceiling)
    if bad.any() and not drop_nan_voxels:
        raise BadInput(
            f"{path}: {bad.sum():,} of {total:,} voxels are NaN or infinite for some image (first: {bad.argmax()}).",
            why="A voxel without a response to every image cannot be fitted.",
            do="Leave those voxels out with --drop-nan-voxels.",
        )
    if bad.all():
        raise BadInput(f"{path}: every voxel is NaN or infinite for some image; nothing is left.")
    kept = np.flatnonzero(~bad)
    record = dict(table.record) | {
        "images": len(table.blocks[0]),
        "voxels": len(kept),
        "dropped_voxels": int(bad.sum()),
        "rois": {name: int(mask[kept].sum()) for name, mask in named.items()},
    }
    return Responses(
        blocks=table.blocks,
        kept=kept,
        ids=table.ids,
        rois={name: mask[kept] for name, mask in named.items()},
        noise_ceiling=None if ceiling is None else ceiling[kept],
        record=record,
    )


def _find_voxels_with_gaps(blocks: tuple[npt.NDArray[Any], ...]) -> Bool:
    found = []
    for block in blocks:
        step = max(1, _VALUES_PER_BLOCK // block.shape[1])
        bad = np.zeros(block.shape[1], dtype=bool)
        for start in range(0, len(block), step):
            bad |= ~np.isfinite(block[start : start + step]).all(axis=0)
        found.append(bad)
    return np.concatenate(found)


def _read_noise_ceiling(path: Path, *, n_voxels: int) -> Float:
    ceiling = np.asarray(open_npy(path, axes=("voxels",)), dtype=np.float32)
    if len(ceiling) != n_voxels:
        raise BadInput(f"{path}: has {len(ceiling):,} entries, but the responses have {n_voxels:,} voxels.")
    finite = ceiling[np.isfinite(ceiling)]
    if len(finite) and (finite.min() < 0 or finite.max() > 1):
        raise BadInput(
            f"{path}: lies between {finite.min():.3g} and {finite.max():.3g}, expected shares of variance in [0, 1].",
            why="NSD and others publish percent.",
            do="Divide the ceiling by 100 and save it again.",
        )
    return ceiling
