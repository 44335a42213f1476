"""Reads recordings of 10,000 neurons by Stringer et al. 2019, `natimg2800_M*.mat`, as they prepared them themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.errors import BadInput
from aligncut_cli.images.guard import reading, require_file, require_memory

GREY = 2801
"""Number of the grey screen among the stimuli, which count from 1."""
COMPONENTS = 32
"""Components of spontaneous activity that are taken out of the responses."""
_SMALL = 1e-6

Floats = npt.NDArray[np.float32]


def is_recording(path: Path) -> bool:
    """Return whether a file is such a recording: a MATLAB file, older than 7.3, with a structure `stim`."""
    from scipy.io import whosmat

    if path.suffix.lower() != ".mat" or not path.is_file():
        return False
    try:
        return any(name == "stim" and kind == "struct" for name, _, kind in whosmat(path))
    except Exception:  # of another kind, which its own reader will name
        return False


def read_recording(path: Path) -> tuple[Floats, list[str]]:
    """Read the responses to every presentation of an image; those to the grey screen are left out.

    returns : (presentations, neurons) in deviations of spontaneous activity, without its leading components; and the
              image of each, natimg-0001 to natimg-2800 as they count in `images_natimg2800_all.mat`
    """
    from scipy.io import loadmat

    require_file(path)
    require_memory(path, 4 * path.stat().st_size)
    with reading(path, "a recording by Stringer et al."):
        stim: dict[str, Any] = loadmat(path, variable_names=["stim"], simplify_cells=True)["stim"]
        responses, spontaneous = (np.asarray(stim[name], dtype=np.float32) for name in ("resp", "spont"))
        numbers = np.asarray(stim["istim"]).ravel().astype(np.int64)
    if responses.ndim != 2 or spontaneous.ndim != 2 or responses.shape[1] != spontaneous.shape[1]:
        raise BadInput(f"{path}: resp has shape {responses.shape} and spont {spontaneous.shape}.")
    if len(numbers) != len(responses) or numbers.min(initial=1) < 1:
        raise BadInput(f"{path}: istim names {len(numbers):,} presentations, and resp has {len(responses):,}.")
    shown = numbers < GREY
    names = [name_image(number) for number in numbers[shown].tolist()]
    return remove_spontaneous(responses[shown], spontaneous), names


def name_image(number: int) -> str:
    """Return what an image of the 2,800 is called, by its number from 1."""
    return f"natimg-{number:04d}"


def remove_spontaneous(responses: Floats, spontaneous: Floats, *, components: int = COMPONENTS) -> Floats:
    """Express responses in deviations of spontaneous activity, and take its leading components out of them.

    responses   : (presentations, neurons)
    spontaneous : (times, neurons) activity without a stimulus
    """
    from scipy.sparse.linalg import svds

    mean = spontaneous.mean(axis=0, dtype=np.float64)
    deviation = spontaneous.std(axis=0, dtype=np.float64) + _SMALL
    rest = ((spontaneous - mean) / deviation).astype(np.float32)
    active: Floats = ((responses - mean) / deviation).astype(np.float32)
    count = min(components, min(rest.shape) - 1)
    if count < 1:
        return active
    start = np.random.default_rng(0).standard_normal(min(rest.shape)).astype(np.float32)
    _, _, leading = svds(rest, k=count, v0=start)
    cleaned: Floats = (active - (active @ leading.T) @ leading).astype(np.float32)
    return cleaned
