"""The scenes that the demo's models are trained and probed on: drawn once, kept as arrays."""

from __future__ import annotations

import json
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aligncut_cli.demo.scenes import SIZE, make_scene

Record = dict[str, Any]  # of one scene: its background and its objects


class Scenes(NamedTuple):
    """Scenes of one seed.

    pictures : uint8 (n, 112, 112, 3), memory-mapped
    masks    : uint8 (n, 112, 112), 0 background, k + 1 for CATEGORIES[k], memory-mapped
    records  : what is in each
    """

    pictures: np.ndarray
    masks: np.ndarray
    records: list[Record]


Visits = tuple[Scenes, Scenes]  # the same places on two days, as `make_scene` has it


def load_scenes(seed: int, n: int, cache: Path, workers: int, visit: int = 0) -> Scenes:
    """Scenes 0 to n - 1 of a seed, at a visit; drawn at the first call (25 ms each) into the folder `cache`."""
    stem = f"{seed}-{n}-{visit}"
    pictures, masks, truth = (cache / f"{stem}-{name}" for name in ("pictures.npy", "masks.npy", "truth.json"))
    if not truth.exists():
        cache.mkdir(parents=True, exist_ok=True)
        drawn = np.lib.format.open_memmap(pictures, "w+", np.uint8, (n, SIZE, SIZE, 3))
        covered = np.lib.format.open_memmap(masks, "w+", np.uint8, (n, SIZE, SIZE))
        records = []
        with get_context("spawn").Pool(workers) as pool:
            for index, scene in enumerate(pool.imap(partial(make_scene, seed, visit=visit), range(n), chunksize=64)):
                drawn[index], covered[index] = scene.image, scene.mask
                records.append({"background": scene.background, "objects": [vars(item) for item in scene.objects]})
        drawn.flush()
        covered.flush()
        part = truth.with_suffix(".part")
        part.write_text(json.dumps(records))
        part.rename(truth)
    return Scenes(np.load(pictures, mmap_mode="r"), np.load(masks, mmap_mode="r"), json.loads(truth.read_text()))
