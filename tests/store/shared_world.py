"""A pipeline of every stage whose blocks can be shared out, each from the outputs before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import PAIR, aligncut, array_bytes, done, make_photos


def make_world(folder: Path, names: Sequence[str] = ()) -> Path:
    """Make photos, masks, responses, and those of the outputs that are asked for, or all, in one process."""
    photos = make_photos(folder / "photos", 24)
    (folder / "masks").mkdir()
    for photo in photos.glob("*.png"):
        with Image.open(photo) as picture:
            mask = np.zeros(picture.size[::-1], dtype=np.uint8)
        mask[:, : mask.shape[1] // 2] = 1
        Image.fromarray(mask).save(folder / "masks" / photo.name)
    np.save(folder / "responses.npy", np.random.default_rng(0).standard_normal((24, 20)).astype(np.float32))
    every = commands(folder)
    for name in names or every:
        done(*every[name], "-o", folder / name)
    return folder


def commands(world: Path) -> dict[str, Sequence[object]]:
    """By output the commands of one pipeline, each from the outputs before it."""
    fit = ["--universal-dim", 8, "--epochs", 2, "--responses", world / "responses.npy"]
    return {
        "f.zarr": ["extract", world / "photos", *PAIR, "--workers", 0],
        # Tokens enough for two chunks of images, so that there is something to share out.
        "x.zarr": [
            *["extract", world / "photos", "--model", "tiny=vit_tiny_patch16_224@448", "--weights", "random"],
            *["--layers", "0-1", "--batch-size", 4, "--workers", 0],
        ],
        "a.zarr": ["align", world / "f.zarr", *fit, "--folds", 2, "--seeds", 2],
        "b.zarr": ["align", world / "f.zarr", *fit, "--folds", 2, "--target", "both", "--n-sample", 100],
        "u.zarr": ["align", world / "f.zarr", "--apply", world / "a.zarr"],
        "e.zarr": [
            *["eigs", world / "f.zarr", "--alignment", world / "a.zarr", "--group", "layer", "--n-eig", 5],
            *["--n-sample", 200, "--neighbors", 10, "--orthogonalize", "--check", 20],
        ],
        "n.zarr": [
            *["eigs", world / "f.zarr", "--alignment", world / "a.zarr", "--n-eig", 5, "--n-sample", 300],
            *["--sample", "fps", "--extend", "nystrom", "--check", 20, "--centre", "slot"],
        ],
        "t.zarr": ["tsne", world / "n.zarr", "--n-sample", 200, "--iterations", 30],
        "s.zarr": ["segment", world / "e.zarr", world / "n.zarr", "--masks", world / "masks", "--n-eig", 5],
        "k.zarr": [
            *["segment", world / "e.zarr", world / "n.zarr", "--masks", world / "masks"],
            *["--clusters", 4, "--cluster-sample", 100],
        ],
        "compared": ["compare", world / "x.zarr", "--n-sample", 100],
        "activated": [
            *["activations", world / "f.zarr", "--alignment", world / "a.zarr", "--masks", world / "masks"],
            *["--token", "photo-003:1,2", "--token", "photo-004:0,1", "--slot", "tiny:1", "--pictures", 2],
        ],
        "d.zarr": [
            *["decode", world / "f.zarr", "--responses", world / "responses.npy", "--folds", 3, "--control", "shuffle"],
            *["--method", "both", "--epochs", 1, "--batch-images", 8, "--image-size", 16, "--permutations", 19],
        ],
        "concepts": ["concepts", world / "t.zarr", "--features", world / "f.zarr", "--alignment", world / "a.zarr"],
    }


ALONE = ("f.zarr",)
"""Outputs with a single block of photos: one process makes them."""


def summary_of(output: Path) -> object:
    """Return the figures of an output's record, which hold the sums that are no array."""
    if (output / "zarr.json").exists():
        return json.loads((output / "zarr.json").read_text())["attributes"]["aligncut"]["summary"]
    return json.loads((output / "aligncut.json").read_text())["aligncut"]["summary"]


def content(output: Path) -> dict[str, bytes]:
    return {name: data for name, data in array_bytes(output).items() if name != "aligncut.json"}


def check_workers(world: Path, name: str, output: Path, scheduler: str) -> None:
    """Make one of the outputs by workers, and compare it with what one process made."""
    result = aligncut(*commands(world)[name], "-o", output, "--scheduler", scheduler, "-v")
    assert result.code == 0, result.err
    assert (" by workers: " in result.err) == (name not in ALONE), result.err
    assert content(output) == content(world / name)
    assert summary_of(output) == summary_of(world / name)
