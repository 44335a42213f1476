"""Several subjects in one alignment, and options that are given more often than they may be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aligncut_cli.store.read import open_store
from tests.conftest import aligncut, done

FIT = ["--epochs", 1, "--draws", 20, "--universal-dim", 8]


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects that saw 11 of the 12 photos each, in orders of their own, 10 of them in common."""
    folder = tmp_path_factory.mktemp("brains")
    rng = np.random.default_rng(3)
    for name, left_out, voxels in (("one", 2, 5), ("two", 7, 3)):
        images = [index for index in rng.permutation(12) if index != left_out]
        np.save(
            folder / f"{name}.npy", rng.standard_normal((11, voxels)).astype(np.float32) + np.array(images)[:, None]
        )
        rows = "\n".join(f"photo-{index:03d}.png" for index in images)
        (folder / f"{name}.csv").write_text(f"image\n{rows}\n")
        (folder / f"{name}.json").write_text(json.dumps({"V1": [0, 2], "V4": [1]}))
    return folder


def both(brains: Path, *options: str) -> list[object]:
    suffix = {"--responses": "npy", "--image-ids": "csv", "--rois": "json"}
    return [
        word
        for option in options
        for name in ("one", "two")
        for word in (option, f"{name}={brains / name}.{suffix[option]}")
    ]


def test_subjects_stand_side_by_side_for_the_images_that_all_saw(tmp_path: Path, features: Path, brains: Path) -> None:
    args = both(brains, "--responses", "--image-ids", "--rois")
    result = aligncut("align", features, "-o", tmp_path / "a.zarr", *args, *FIT)
    assert result.code == 0, result.err
    assert "10 of 12 images were seen by all 2 subjects" in result.err
    store = open_store(tmp_path / "a.zarr")
    rois = {name: np.flatnonzero(store.read(f"roi/{name}")).tolist() for name in store.names("roi")}
    assert rois == {
        "one": [0, 1, 2, 3, 4], "one.V1": [0, 2], "one.V4": [1], "two": [5, 6, 7], "two.V1": [5, 7], "two.V4": [6],
    }  # fmt: skip
    assert store.record["summary"]["images"] == 10
    assert store.record["responses"]["subjects"]["two"]["voxels"] == 3
    assert "two.V1" in result.err


def test_rows_of_all_subjects_are_joined_by_the_images_ids(features: Path, brains: Path) -> None:
    """Against a loop over names: the responses of these subjects are the number of the photo, with little noise."""
    from aligncut_cli.brain.responses import load_responses
    from aligncut_cli.params import AlignParams
    from aligncut_cli.stages.align.data import AlignmentData
    from aligncut_cli.store.kinds.features import Features

    parts = {name: load_responses(brains / f"{name}.npy", image_ids=brains / f"{name}.csv") for name in ("one", "two")}
    data = AlignmentData(Features(open_store(features)), parts, AlignParams())
    found = data.read_targets(0)
    expected = []
    for image in data.features.ids:
        if all(f"{image}.png" in part.ids for part in parts.values()):
            expected.append(np.concatenate([part.values[part.ids.index(f"{image}.png")] for part in parts.values()]))
    np.testing.assert_array_equal(found, expected)


def test_one_subject_with_a_name_is_fitted_as_one_without(tmp_path: Path, features: Path) -> None:
    np.save(tmp_path / "r.npy", np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))
    plain = done("align", features, "-o", tmp_path / "a.zarr", "--responses", tmp_path / "r.npy", *FIT)
    named = done("align", features, "-o", tmp_path / "b.zarr", "--responses", f"s={tmp_path / 'r.npy'}", *FIT)
    for array in ("tiny/weight", "readout/weight", "scores/r2"):
        np.testing.assert_array_equal(open_store(plain).read(array), open_store(named).read(array))
    assert open_store(named).names("roi") == ["s"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--responses", "A", "--responses", "B"], "--responses subj01=PATH --responses subj02=PATH"),
        (["--responses", "s=A", "--responses", "s=B"], "more than once for s"),
        (["--responses", "s=A", "--responses", "B"], "give each a name"),
        (["--responses", "s=A", "--responses", "t=B", "--rois", "R"], "--rois s=PATH"),
        (["--responses", "A", "--rois", "s=R"], "Leave the name out"),
        (["--responses", "A", "--rois", "R", "--rois", "Q"], "--rois is given more than once"),
        (["--responses", "A", "--epochs", "1", "--epochs", "2"], "--epochs is given 2 times, and takes one value"),
        (["--responses", "A", "-o", "there"], "--output is given 2 times"),
        (["--responses", "A", "--centre", "--no-centre"], "--centre is given 2 times"),
    ],
)
def test_an_option_that_is_given_too_often_is_refused(
    tmp_path: Path, features: Path, options: list[str], words: str
) -> None:
    result = aligncut("align", features, "-o", tmp_path / "a.zarr", *options)
    assert result.code == 2, result.err
    assert words in result.err
    assert not list(tmp_path.iterdir())


def test_switches_may_be_repeated_and_a_file_gives_one_value_of_many(tmp_path: Path, features: Path) -> None:
    (tmp_path / "run.toml").write_text(f'responses = "{tmp_path / "r.npy"}"\n')
    np.save(tmp_path / "r.npy", np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))
    result = aligncut("align", features, "-o", tmp_path / "a.zarr", "--config", tmp_path / "run.toml", "-n", "-n")
    assert result.code == 0, result.err
    assert "blocks" in result.out
