"""Reads noise ceilings: the explainable share of a voxel's variance, or NSD's signal-to-noise ratio turned into it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain.arrays import open_npy
from aligncut_cli.brain.files import open_table, split_dataset, suffix_of
from aligncut_cli.brain.rows import read_range
from aligncut_cli.brain.table import Float
from aligncut_cli.errors import BadInput


def read_noise_ceiling(files: Sequence[Path], *, n_voxels: int, repeats: npt.NDArray[Any]) -> Float:
    """Read the ceiling of every voxel.

    files    : one per block of voxels; a file with `ncsnr` in its name holds NSD's ratio
    n_voxels : of the responses, before any are dropped
    repeats  : (images,) how many trials each response is the average of
    returns  : (voxels,) share of variance in [0, 1], NaN where it is not known
    """
    parts = [_read_vector(file) for file in files]
    ceiling = np.concatenate(parts)
    shown = ", ".join(map(str, files))
    if len(ceiling) != n_voxels:
        raise BadInput(f"{shown}: has {len(ceiling):,} entries, but the responses have {n_voxels:,} voxels.")
    if "ncsnr" in files[0].name.lower():
        return ceiling_of_ncsnr(ceiling, repeats)
    finite = ceiling[np.isfinite(ceiling)]
    if len(finite) and (finite.min() < 0 or finite.max() > 1):
        raise BadInput(
            f"{shown}: lies between {finite.min():.3g} and {finite.max():.3g}, expected shares of variance in [0, 1].",
            why="NSD and others publish percent.",
            do="Divide the ceiling by 100 and save it again.",
        )
    return ceiling


def ceiling_of_ncsnr(ncsnr: Float, repeats: npt.NDArray[Any]) -> Float:
    """Turn the ratio of signal to noise of a single trial into the explainable share of averages' variance.

    Allen et al. 2022, noise ceiling: s^2 / (s^2 + mean over images of 1 / n), n trials averaged.

    ncsnr   : (voxels,) >= 0
    repeats : (images,) n of each image
    """
    power = np.square(ncsnr, dtype=np.float64)
    share: Float = (power / (power + np.mean(1 / repeats))).astype(np.float32)
    return share


def _read_vector(path: Path) -> Float:
    """Read one value per voxel: a vector in .npy, or a table or volume of one row."""
    file, _ = split_dataset(path)
    if suffix_of(file) == ".npy":
        return np.asarray(open_npy(file, axes=("voxels",)), dtype=np.float32)
    values = open_table(path).values
    n_rows, n_columns = values.shape
    if 1 not in (n_rows, n_columns):
        raise BadInput(f"{path}: has {n_rows:,} rows, expected one value per voxel.")
    return np.asarray(read_range(values, 0, n_rows), dtype=np.float32).ravel()
