from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aligncut_cli.brain.responses import load_responses
from aligncut_cli.errors import BadInput


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "responses.npy"
    np.save(file, np.arange(12, dtype=np.float64).reshape(4, 3))
    return file


def test_a_file_and_its_folder_read_the_same(table: Path) -> None:
    for path in (table, table.parent):
        responses = load_responses(path)
        assert responses.ids is None
        np.testing.assert_array_equal(responses.values, np.arange(12, dtype=np.float32).reshape(4, 3))
        np.testing.assert_array_equal(responses.read([3, 1]), [[9, 10, 11], [3, 4, 5]])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "uint8", ">f8"])
def test_any_plain_number_is_read_as_float32(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "r.npy", np.asfortranarray(np.arange(6).reshape(3, 2).astype(dtype)))
    values = load_responses(tmp_path / "r.npy").values
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, [[0, 1], [2, 3], [4, 5]])


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a.png\nb.jpg\nc.d\nsub/e.JPEG\n", ["a.png", "b.jpg", "c.d", "sub/e.JPEG"]),
        ("trial,image\n1,a\n2,b\n3,c\n4,d\n", ["a", "b", "c", "d"]),
        ("Image Name;trial\na;1\nb;2\nc;3\nd;4\n", ["a", "b", "c", "d"]),
        ("trial\tStimulus\n1\ta\n2\tb\n3\tc\n4\td\n", ["a", "b", "c", "d"]),
        ("\ufeffid\r\na\r\nb\r\n\r\nc\r\nd\r\n", ["a", "b", "c", "d"]),
    ],
)
def test_image_names_come_from_a_csv(table: Path, text: str, ids: list[str]) -> None:
    names = table.parent / "ids.csv"
    for encoding in ("utf-8", "utf-16"):  # as Excel saves Unicode text
        names.write_text(text.removeprefix("\ufeff" if encoding == "utf-16" else ""), encoding=encoding, newline="")
        assert load_responses(table, image_ids=names).ids == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\nc\n", "names 3 images"),
        ("a\nb\na\nd\n", "'a' more than once"),
        ("", "no images"),
        ("n,id\n1,a\n2\n", "row 2"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(table: Path, text: str, message: str) -> None:
    names = table.parent / "ids.csv"
    names.write_text(text)
    with pytest.raises(BadInput, match=message):
        load_responses(table, image_ids=names)


def test_voxels_with_gaps_are_refused_or_dropped_together_with_what_belongs_to_them(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.float32).reshape(4, 5)
    values[2, 1], values[0, 4] = np.nan, np.inf
    np.save(tmp_path / "r.npy", values)
    np.save(tmp_path / "nc.npy", np.array([0.1, 0.2, np.nan, 0.4, 0.5]))
    (tmp_path / "rois.json").write_text('{"V1": [0, 1, 2], "V4": [3]}')
    with pytest.raises(BadInput, match=r"2 of 5 voxels.*first: 1[\s\S]*--drop-nan-voxels"):
        load_responses(tmp_path / "r.npy")
    responses = load_responses(
        tmp_path / "r.npy", rois=tmp_path / "rois.json", noise_ceiling=tmp_path / "nc.npy", drop_nan_voxels=True
    )
    np.testing.assert_array_equal(responses.values, values[:, [0, 3]])
    np.testing.assert_allclose(responses.noise_ceiling, [0.1, 0.4])  # type: ignore[arg-type]
    assert {name: mask.tolist() for name, mask in responses.rois.items()} == {"V1": [True, False], "V4": [False, True]}
    assert responses.record["dropped_voxels"] == 3
    np.save(tmp_path / "r.npy", np.full((3, 2), np.nan))
    with pytest.raises(BadInput, match="nothing is left"):
        load_responses(tmp_path / "r.npy", drop_nan_voxels=True)


def test_rois_are_read_as_indices_and_as_masks(table: Path) -> None:
    folder = table.parent
    (folder / "r.json").write_text(json.dumps({"a": [2, 0], "b": [True, False, True], "none": []}))
    np.savez(folder / "r.npz", a=np.array([2, 0]), b=np.array([True, False, True]), none=np.zeros(0))
    for name in ("r.json", "r.npz"):
        rois = load_responses(table, rois=folder / name).rois
        assert [rois[key].tolist() for key in ("a", "b", "none")] == [[True, False, True]] * 2 + [[False] * 3]


@pytest.mark.parametrize(
    "content",
    ['{"a": [3]}', '{"a": [-1]}', '{"a": [true, false]}', '{"a": [0.5]}', '{"a": [[0]]}', '{"a": [[0], [1, 2]]}',
     '{"a": "V1"}', '{"a/b": [0]}', '{"": [0]}', '{"a": [0, true]}', "[1]", "{", '{"a": {"b": 1}}'],
)  # fmt: skip
def test_rois_that_do_not_fit_are_refused(table: Path, content: str) -> None:
    (table.parent / "r.json").write_text(content)
    with pytest.raises(BadInput, match=r"r\.json"):
        load_responses(table, rois=table.parent / "r.json")


def test_pickled_and_broken_npz_rois_are_refused(table: Path) -> None:
    file = table.parent / "r.npz"
    np.savez(file, a=np.array([{}], dtype=object))
    with pytest.raises(BadInput):
        load_responses(table, rois=file)
    file.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(BadInput):
        load_responses(table, rois=file)


def test_the_noise_ceiling_is_a_share_of_variance_per_voxel(table: Path) -> None:
    file = table.parent / "nc.npy"
    np.save(file, np.array([10.0, 50.0, 0.0]))
    with pytest.raises(BadInput, match="percent"):
        load_responses(table, noise_ceiling=file)
    np.save(file, np.array([0.1, 0.5]))
    with pytest.raises(BadInput, match=r"2 entries.*3 voxels"):
        load_responses(table, noise_ceiling=file)


def test_files_that_are_not_two_axes_of_numbers_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.npy"
    for array in (np.zeros(3), np.zeros((2, 3, 4)), np.zeros((0, 3)), np.array([["a"]]), np.zeros((2, 2), complex)):
        np.save(file, array)
        with pytest.raises(BadInput, match=r"r\.npy"):
            load_responses(file)
    np.save(file, np.array([{"a": 1}], dtype=object))
    with pytest.raises(BadInput, match="pickled"):
        load_responses(file)
    np.save(file, np.zeros((4, 4)))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BadInput, match="truncated"):
        load_responses(file)
    file.write_bytes(b"")
    with pytest.raises(BadInput):
        load_responses(file)


def test_a_path_without_responses_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"responses\.npy"):
        load_responses(tmp_path)
    with pytest.raises(BadInput, match="no such file"):
        load_responses(tmp_path / "nothing")
