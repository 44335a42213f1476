"""Every format of responses gives the table that numpy wrote, and no file is believed further than it goes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from aligncut_cli.brain import rows
from aligncut_cli.brain.responses import load_responses
from aligncut_cli.errors import AlignCutError, BadInput, OutOfResources

VALUES = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


def write_csv(path: Path, *, mark: str = ",", decimal: str = ".", header: bool = True, names: bool = True) -> Path:
    lines = [mark.join(["filename"] * names + [f"v{k}" for k in range(4)])] if header else []
    for row, values in enumerate(VALUES):
        numbers = [f"{value:.9g}".replace(".", decimal) for value in values]
        lines.append(mark.join([f"im{row}.png"] * names + numbers))
    path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"mark": "\t"},
        {"mark": ";", "decimal": ","},
        {"names": False},
        {"names": False, "header": False},
        {"header": False},
    ],
)
def test_a_csv_is_a_table(tmp_path: Path, how: dict) -> None:
    responses = load_responses(write_csv(tmp_path / "r.csv", **how))
    np.testing.assert_allclose(responses.values, VALUES, rtol=1e-6)
    assert responses.ids == ([f"im{k}.png" for k in range(6)] if how.get("names", True) else None)


def test_the_number_of_the_row_that_pandas_writes_is_no_voxel(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(",v0,v1\n0,1.5,2\n1,3,4\n")
    assert load_responses(tmp_path / "r.csv").values.tolist() == [[1.5, 2], [3, 4]]


def test_a_csv_that_is_ragged_or_holds_words_is_refused(tmp_path: Path) -> None:
    for text in ("id,a,b\nx,1\n", "id,a\nx,one\n", "id,a\n", "\0\0", 'id,a\n"x,1\n'):
        (tmp_path / "r.csv").write_text(text)
        with pytest.raises(BadInput, match=r"r\.csv"):
            load_responses(tmp_path / "r.csv")


def test_an_npz_says_which_table_and_may_name_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "r.npz"
    np.savez_compressed(file, betas=VALUES, ids=np.array([f"im{k}" for k in range(6)]), mean=np.zeros(4))
    responses = load_responses(file)
    np.testing.assert_array_equal(responses.values, VALUES)
    assert responses.ids == [f"im{k}" for k in range(6)]
    np.savez(file, a=VALUES, b=2 * VALUES)
    with pytest.raises(BadInput, match=r"a 6 x 4, b 6 x 4[\s\S]*r\.npz::a"):
        load_responses(file)
    np.testing.assert_array_equal(load_responses(Path(f"{file}::b")).values, 2 * VALUES)
    np.savez(file, a=VALUES, responses=2 * VALUES)
    np.testing.assert_array_equal(load_responses(file).values, 2 * VALUES)


def test_matlab_files_of_both_kinds_are_images_by_voxels_as_matlab_shows_them(tmp_path: Path) -> None:
    h5py, scipy_io = pytest.importorskip("h5py"), pytest.importorskip("scipy.io")
    scipy_io.savemat(tmp_path / "v5.mat", {"resp": VALUES, "name": "V1", "list": np.array([{"a": 1}])})
    with h5py.File(tmp_path / "v73.mat", "w", userblock_size=512) as file:
        file["resp"] = VALUES.T  # MATLAB's axes are reversed in HDF5
        file["name"] = np.array([86, 49], np.uint16)
    with (tmp_path / "v73.mat").open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    for name in ("v5.mat", "v73.mat"):
        np.testing.assert_array_equal(load_responses(tmp_path / name).values, VALUES, err_msg=name)
    np.testing.assert_array_equal(load_responses(Path(f"{tmp_path}/v73.mat::resp")).read([4, 1]), VALUES[[4, 1]])


def test_hdf5_names_a_dataset_and_flattens_volumes(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["sub/one"], file["sub/two"] = VALUES, 2 * VALUES
    with pytest.raises(BadInput, match="sub/one 6 x 4, sub/two 6 x 4"):
        load_responses(tmp_path / "r.h5")
    np.testing.assert_array_equal(load_responses(Path(f"{tmp_path}/r.h5::sub/two")).values, 2 * VALUES)
    np.save(tmp_path / "r.npy", VALUES)
    with pytest.raises(BadInput, match="none called one"):
        load_responses(Path(f"{tmp_path}/r.npy::one"))
    with pytest.raises(BadInput, match="holds no table three"):
        load_responses(Path(f"{tmp_path}/r.h5::three"))


def test_a_volume_leaves_out_what_lies_outside_the_brain(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    box = np.zeros((6, 2, 2, 3), np.int16)
    box[:, 0, 1] = np.arange(1, 19).reshape(6, 3)
    with h5py.File(tmp_path / "r.hdf5", "w") as file:
        file["betas"] = box
    responses = load_responses(tmp_path / "r.hdf5")
    assert responses.kept.tolist() == [3, 4, 5]
    np.testing.assert_array_equal(responses.values, box[:, 0, 1])


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_nifti_counts_trials_by_its_last_axis(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    box = np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype(np.float32)
    for name in ("r.nii", "r.nii.gz", "r.mgh"):
        image = nibabel.MGHImage if name.endswith("mgh") else nibabel.Nifti1Image
        nibabel.save(image(box, np.eye(4)), tmp_path / name)
        np.testing.assert_allclose(load_responses(tmp_path / name).values, box.reshape(24, 5).T, rtol=1e-6)


def test_gifti_counts_trials_by_arrays_or_by_the_second_axis(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    gifti = nibabel.gifti
    per_trial = gifti.GiftiImage(darrays=[gifti.GiftiDataArray(row) for row in VALUES])
    in_one = gifti.GiftiImage(darrays=[gifti.GiftiDataArray(np.ascontiguousarray(VALUES.T))])
    for image in (per_trial, in_one):
        nibabel.save(image, tmp_path / "lh.r.func.gii")
        np.testing.assert_allclose(load_responses(tmp_path / "lh.r.func.gii").values, VALUES, rtol=1e-6)


def test_without_the_optional_reader_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    (tmp_path / "r.nii").write_bytes(b"x")
    with pytest.raises(BadInput, match="pip install nibabel"):
        load_responses(tmp_path / "r.nii")


@pytest.mark.parametrize("left", ["lh.r.npy", "lh_r.npy", "r_lh.npy", "r.left.npy", "lh.npy"])
def test_both_hemispheres_of_a_folder_stand_side_by_side(tmp_path: Path, left: str) -> None:
    np.save(tmp_path / left, VALUES)
    np.save(tmp_path / left.replace("lh", "rh").replace("left", "right"), 2 * VALUES[:, :3])
    np.testing.assert_array_equal(load_responses(tmp_path).values, np.concatenate([VALUES, 2 * VALUES[:, :3]], 1))
    np.save(tmp_path / left.replace("lh", "rh").replace("left", "right"), VALUES[:5])
    with pytest.raises(BadInput, match="has 5 images"):
        load_responses(tmp_path)


# ---- rows


def test_a_row_without_a_response_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[2:4] = np.nan
    np.save(tmp_path / "r.npy", values)
    (tmp_path / "ids.csv").write_text("\n".join(f"im{k}" for k in range(6)))
    with pytest.raises(BadInput, match=r"2 of 6 rows .*row 2 \(im2\)[\s\S]*--drop-nan-images"):
        load_responses(tmp_path / "r.npy", image_ids=tmp_path / "ids.csv")
    responses = load_responses(tmp_path / "r.npy", drop_nan_images=True)
    assert responses.usable is not None
    assert responses.usable.tolist() == [True, True, False, False, True, True]
    assert responses.shape == (6, 4)
    assert responses.record["dropped_rows"] == 2
    values[:, 1] = np.nan
    np.save(tmp_path / "r.npy", values)
    both = load_responses(tmp_path / "r.npy", drop_nan_images=True, drop_nan_voxels=True)
    np.testing.assert_array_equal(both.read([0, 5]), values[[0, 5]][:, [0, 2, 3]])


def test_repeats_are_averaged_on_request_only(tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", VALUES)
    (tmp_path / "ids.csv").write_text("image\nb\na\nb\nc\nb\na\n")
    with pytest.raises(BadInput, match=r"'b' more than once[\s\S]*--average-repeats"):
        load_responses(tmp_path / "r.npy", image_ids=tmp_path / "ids.csv")
    responses = load_responses(tmp_path / "r.npy", image_ids=tmp_path / "ids.csv", average_repeats=True)
    assert responses.ids == ["b", "a", "c"]
    expected = np.stack([VALUES[[0, 2, 4]].mean(0), VALUES[[1, 5]].mean(0), VALUES[3]])
    np.testing.assert_allclose(responses.values, expected, rtol=1e-6)
    np.testing.assert_allclose(responses.read([2, 0, 2]), expected[[2, 0, 2]], rtol=1e-6)
    values = VALUES.copy()
    values[[2, 3]] = np.nan
    np.save(tmp_path / "r.npy", values)
    gone = load_responses(
        tmp_path / "r.npy", image_ids=tmp_path / "ids.csv", average_repeats=True, drop_nan_images=True
    )
    assert gone.usable is not None
    assert gone.usable.tolist() == [True, True, False]
    np.testing.assert_allclose(gone.read([0]), VALUES[[0, 4]].mean(0)[None], rtol=1e-6)


def test_slabs_change_nothing(tmp_path: Path, monkeypatch) -> None:
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(2)
    table, names = rng.standard_normal((37, 5)).astype(np.float32), rng.integers(0, 12, 37)
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file["responses"] = table
    (tmp_path / "ids.csv").write_text("\n".join(f"n{name}" for name in names))
    order = rng.permutation(37)
    read = []
    for size in (1, 150, 1 << 28):
        monkeypatch.setattr(rows, "SLAB_BYTES", size)
        plain = load_responses(tmp_path / "r.h5")
        np.testing.assert_array_equal(plain.read(order), table[order])
        averaged = load_responses(tmp_path / "r.h5", image_ids=tmp_path / "ids.csv", average_repeats=True)
        read.append(averaged.values)
    for name, row in zip(averaged.ids or [], read[0], strict=True):
        np.testing.assert_allclose(row, table[names == int(name[1:])].mean(0), rtol=1e-5, atol=1e-6)
    assert read[0].tobytes() == read[1].tobytes() == read[2].tobytes()


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_sizes_whose_squares_leave_float32_are_refused(tmp_path: Path, scale: float) -> None:
    np.save(tmp_path / "r.npy", VALUES.astype(np.float64) * scale)
    with pytest.raises(BadInput, match="another unit"):
        load_responses(tmp_path / "r.npy")


# ---- what a file claims


def npy_header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_an_array_larger_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "r.npz", "w") as archive:
        archive.writestr("r.npy", npy_header("(1000000000, 1000000)"))
    with pytest.raises(OutOfResources, match=r"4,000,000\.0 GB"):
        load_responses(tmp_path / "r.npz")
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file.create_dataset("r", shape=(10, 10**13), dtype="f4", chunks=(1, 1024))
    with pytest.raises(OutOfResources, match=r"r\.h5"):
        load_responses(tmp_path / "r.h5")


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "mat", "h5", "nii", "mgz"])
def test_a_pipe_or_a_folder_is_no_table(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"r.{suffix}")
    with pytest.raises(BadInput, match="pipe or device"):
        load_responses(tmp_path / f"r.{suffix}")


@pytest.mark.parametrize("suffix", ["npy", "npz", "mat", "h5", "csv", "json"])
def test_whatever_is_wrong_with_a_file_it_is_named(tmp_path: Path, suffix: str) -> None:
    """Every kind of file with bytes cut, flipped, zeroed or replaced is read or refused, never a traceback."""
    table = tmp_path / "table.npy"
    np.save(table, VALUES)
    file = tmp_path / f"r.{suffix}"
    if suffix == "npy":
        np.save(file, VALUES)
    elif suffix == "npz":
        np.savez_compressed(file, responses=VALUES, ids=np.array(list("abcdef")))
    elif suffix == "mat":
        pytest.importorskip("scipy.io").savemat(file, {"responses": VALUES}, do_compression=True)
    elif suffix == "h5":
        with pytest.importorskip("h5py").File(file, "w") as stored:
            stored.create_dataset("responses", data=VALUES, compression="gzip", chunks=(2, 4))
    elif suffix == "csv":
        write_csv(file)
    else:
        file.write_text('{"V1": [0, 1], "V4": [true, false, true, true]}')
    whole, rng, refused = file.read_bytes(), np.random.default_rng(3), []
    for _ in range(150):
        data = bytearray(whole)
        at = int(rng.integers(len(data)))
        change = rng.integers(4)
        if change == 0:
            data = data[:at]
        elif change == 1:
            data[at] ^= 1 << int(rng.integers(8))
        elif change == 2:
            data[at : at + 8] = bytes(8)
        else:
            data[at : at + 4] = rng.bytes(4)
        file.write_bytes(bytes(data))
        try:
            if suffix == "json":
                load_responses(table, rois=file)
            else:
                with np.errstate(all="ignore"):
                    assert load_responses(file).values.dtype == np.float32
        except AlignCutError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(f"r.{suffix}" in message for message in refused)
