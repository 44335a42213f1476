"""What a stage says of its result is said again by a rerun and by `inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import aligncut

Desk = dict[str, list[object]]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, photos: Path, features: Path, eigs: Path, tsne: Path) -> Desk:
    """Every stage that prints a table or figures, on the small shared stores, with the -o that each writes to."""
    desk = tmp_path_factory.mktemp("desk")
    responses, masks = desk / "responses.npy", desk / "masks"
    np.save(responses, np.random.default_rng(0).standard_normal((12, 9)).astype(np.float32))
    masks.mkdir()
    for photo in photos.glob("*.png"):
        with Image.open(photo) as picture:
            mask = np.zeros(picture.size[::-1], dtype=np.uint8)
        mask[: len(mask) // 2] = 1
        Image.fromarray(mask).save(masks / photo.name)
    return {
        "align": ["align", features, "--responses", responses, "--epochs", 1, "--draws", 20, "-o", desk / "b.zarr"],
        "consensus": ["align", features, "--target", "consensus", "--universal-dim", 9, "-o", desk / "u.zarr"],
        "eigs": ["eigs", features, "--n-eig", 4, "--n-sample", 200, "--check", 5, "-o", desk / "e.zarr"],
        "tsne": ["tsne", eigs, "--n-sample", 100, "--iterations", 20, "-o", desk / "t.zarr"],
        "compare": ["compare", features, "-o", desk / "compare"],
        "segment": ["segment", eigs, "--masks", masks, "-o", desk / "s.zarr"],
        "concepts": ["concepts", tsne, "--features", features, "--concepts", 3, "-o", desk / "concepts"],
        "transitions": ["transitions", tsne, "--along", "tiny", "--permutations", 9, "-o", desk / "x.zarr"],
        "render": ["render", tsne, "-o", desk / "pictures"],
    }


SAID = {
    "align": "held-out images",
    "consensus": "the slots share",
    "eigs": "largest residual",
    "tsne": "KL divergence",
    "compare": "mean cosine of the same token",
    "segment": "mIoU over 2 classes",
    "concepts": "concept",
    "transitions": "from",
    "render": "colour",
}


@pytest.mark.parametrize("name", sorted(SAID))
def test_a_rerun_and_inspect_say_what_the_first_run_found(commands: Desk, name: str) -> None:
    first = aligncut(*commands[name])
    assert first.code == 0, first.err
    again = aligncut(*commands[name])
    assert again.out == first.out
    *found, up_to_date = again.err.splitlines()
    assert up_to_date == f"{commands[name][-1]} is up to date"
    assert found == first.err.splitlines()[-len(found) :]
    assert SAID[name] in "\n".join(found)
    shown = aligncut("inspect", commands[name][-1])
    assert all(line in shown.out.splitlines() for line in found)
    record = json.loads(aligncut("inspect", commands[name][-1], "--json").out)
    assert "\n".join([*record["said"], *(f"warning: {text}" for text in record["warned"])]).splitlines() == found
    assert aligncut(*commands[name], "--quiet").err.splitlines() == [f"warning: {text}" for text in record["warned"]]
