"""Rows of responses meet the right images from the command line, or the command says why it will not guess."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligncut_cli.store.kinds.features import POOLED
from aligncut_cli.store.read import open_store
from tests.conftest import TINY, aligncut, done

FIT = ["--universal-dim", 8, "--epochs", 0, "--device", "cpu", "--draws", 20]
# In the order of paths `a-1.png` comes before `a.png`; without suffixes it is the other way round.
NAMES = sorted(f"{stem}.png" for number in range(40) for stem in (f"im{number:02}", f"im{number:02}-b"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """80 photos and their features, and responses that are linear in these, a row per path in sorted order."""
    folder = tmp_path_factory.mktemp("pairing")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name in NAMES:
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 64)).save(folder / "photos" / name)
    features = done("extract", folder / "photos", "-o", folder / "f.zarr", *TINY)
    store = open_store(features, "features")
    pooled = np.asarray(store.read(POOLED.at("tiny")))[-1]  # (image, channel)
    stored = [str(name) for name in store.read("images/id")]
    directions = np.linalg.svd(pooled - pooled.mean(0), full_matrices=False)[2][:3]
    responses = pooled @ directions.T @ rng.standard_normal((3, 12))
    rows = [stored.index(name.removesuffix(".png")) for name in NAMES]
    np.save(folder / "responses.npy", responses[rows].astype(np.float32))
    return features, folder / "responses.npy"


def responses_of(store: Path) -> dict:
    return json.loads((store / "zarr.json").read_text())["attributes"]["aligncut"]["responses"]


def test_an_order_that_could_be_another_is_refused_and_can_be_said(tmp_path: Path, world: tuple[Path, Path]) -> None:
    features, responses = world
    refused = aligncut("align", features, "-o", tmp_path / "a.zarr", "--responses", responses, *FIT)
    assert refused.code == 3
    assert "row 0: im00.png or im00-b.png" in refused.err
    assert "--order name|path" in refused.err
    good = aligncut("align", features, "-o", tmp_path / "a.zarr", "--responses", responses, *FIT, "--order", "path")
    assert good.code == 0, good.err
    assert "order path: row 0 = im00-b, row 79 = im39" in good.err
    assert "no better than by chance" not in good.err
    record = responses_of(good.path)
    assert (record["pairing"]["rule"], record["suspected"]) == ("order path", False)
    wrong = aligncut("align", features, "-o", tmp_path / "w.zarr", "--responses", responses, *FIT, "--order", "given")
    assert wrong.code == 0
    (tmp_path / "ids.csv").write_text(
        "\n".join(["filename;trial", *(f"photos\\{name};{k}" for k, name in enumerate(NAMES))])
    )
    named = done(
        "align",
        features,
        "-o",
        tmp_path / "n.zarr",
        "--responses",
        responses,
        *FIT,
        "--image-ids",
        tmp_path / "ids.csv",
    )
    scores = [open_store(store, "alignment").read("scores/ridge_r") for store in (good.path, named, wrong.path)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.median(scores[0]) > 0.9


def test_a_shuffled_join_is_suspected(tmp_path: Path, world: tuple[Path, Path]) -> None:
    features, responses = world
    np.save(tmp_path / "r.npy", np.load(responses)[np.random.default_rng(1).permutation(len(NAMES))])
    result = aligncut(
        "align", features, "-o", tmp_path / "a.zarr", "--responses", tmp_path / "r.npy", *FIT, "--order", "path"
    )
    assert result.code == 0, result.err
    assert "no better than by chance" in result.err
    assert "row 0 = im00-b" in result.err.split("no better than by chance")[1]
    assert responses_of(result.path)["suspected"]


def test_images_of_a_missing_session_are_left_out_on_request(tmp_path: Path, world: tuple[Path, Path]) -> None:
    features, responses = world
    values = np.load(responses)
    values[20:30] = np.nan
    np.save(tmp_path / "r.npy", values)
    common = ["align", features, "-o", tmp_path / "a.zarr", "--responses", tmp_path / "r.npy", *FIT, "--order", "path"]
    refused = aligncut(*common)
    assert refused.code == 3
    assert "row 20, as have the 9 rows after it" in refused.err
    store = open_store(done(*common, "--drop-nan-images"), "alignment")
    assert store.record["summary"]["images"] == 70
    assert np.median(store.read("scores/ridge_r")) > 0.8
