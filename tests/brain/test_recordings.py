"""Recordings that name their images: Stringer's .mat and its images, assemblies in netCDF; and halves of repeats."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from scipy.io import savemat

from aligncut_cli.brain.assembly import read_assembly
from aligncut_cli.brain.responses import load_responses
from aligncut_cli.brain.stringer import read_recording, remove_spontaneous
from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.images.decode import decode_image
from aligncut_cli.images.files import find_images
from aligncut_cli.maths.repeats import halve_repeats, split_half_ceiling

IMAGES, NEURONS = 6, 9


def write_recording(path: Path) -> dict[str, np.ndarray]:
    """Write two presentations of every image and of the grey screen, in a mixed order, as the real files have them."""
    rng = np.random.default_rng(0)
    numbers = rng.permutation(np.repeat([*range(1, IMAGES + 1), 2801], 2))
    stim = {
        "resp": rng.standard_normal((len(numbers), NEURONS)).astype(np.float32) + 2,
        "istim": numbers[:, None].astype(np.float64),
        "spont": rng.standard_normal((40, NEURONS)).astype(np.float32) * np.arange(1, NEURONS + 1),
    }
    savemat(path, {"stim": stim, "med": np.zeros((NEURONS, 3))})
    return stim


def test_a_recording_is_prepared_as_stringer_does_and_the_grey_screen_is_left_out(tmp_path: Path) -> None:
    stim = write_recording(tmp_path / "natimg2800_M1.mat")
    values, names = read_recording(tmp_path / "natimg2800_M1.mat")
    shown = stim["istim"].ravel() < 2801
    assert names == [f"natimg-{int(number):04d}" for number in stim["istim"].ravel()[shown]]
    mean, deviation = stim["spont"].mean(axis=0), stim["spont"].std(axis=0) + 1e-6
    rest, active = (stim["spont"] - mean) / deviation, (stim["resp"][shown] - mean) / deviation
    _, vectors = np.linalg.eigh(rest.T @ rest)
    leading = vectors[:, 1:]  # 32 components, or all but one
    np.testing.assert_allclose(values, active - active @ leading @ leading.T, atol=1e-4)


def test_components_of_spontaneous_activity_are_gone_from_the_responses() -> None:
    rng = np.random.default_rng(1)
    shared = rng.standard_normal((1, 50))
    spontaneous = rng.standard_normal((200, 1)) @ shared * 5 + rng.standard_normal((200, 50))
    responses = rng.standard_normal((30, 1)) @ shared * 5 + rng.standard_normal((30, 50))
    cleaned = remove_spontaneous(responses.astype(np.float32), spontaneous.astype(np.float32), components=1)
    common = np.corrcoef(cleaned.T)[np.triu_indices(50, 1)]
    assert np.abs(common).mean() < 0.5 * np.abs(np.corrcoef(responses.T)[np.triu_indices(50, 1)]).mean()
    again = remove_spontaneous(responses.astype(np.float32), spontaneous.astype(np.float32), components=1)
    np.testing.assert_array_equal(cleaned, again)


def test_responses_of_a_recording_are_averages_over_its_repeats(tmp_path: Path) -> None:
    write_recording(tmp_path / "m.mat")
    values, names = read_recording(tmp_path / "m.mat")
    found = load_responses(tmp_path / "m.mat")
    assert found.ids is not None
    assert sorted(found.ids) == [f"natimg-{k:04d}" for k in range(1, IMAGES + 1)]
    for place, name in enumerate(found.ids):
        own = values[[k for k, other in enumerate(names) if other == name]]
        assert len(own) == 2
        np.testing.assert_allclose(found.read([place])[0], own.mean(axis=0), rtol=1e-5)
        assert found.image_of_row is not None
        half = halve_repeats(found.image_of_row)
        np.testing.assert_allclose(found.read_half([place], half, 0)[0], own[0], rtol=1e-6)
        np.testing.assert_allclose(found.read_half([place], half, 1)[0], own[1], rtol=1e-6)
    assert found.record["repeats"] == {"least": 2, "most": 2}
    with pytest.raises(UsageError, match="image-ids"):
        load_responses(tmp_path / "m.mat", image_ids=tmp_path / "ids.csv")


def test_stringers_images_are_photos_called_as_the_recording_calls_them(tmp_path: Path) -> None:
    pictures = np.random.default_rng(2).integers(0, 255, (68, 270, IMAGES)).astype(np.uint8)
    savemat(tmp_path / "images_natimg2800_all.mat", {"imgs": pictures})
    files = find_images([tmp_path / "images_natimg2800_all.mat"])
    assert [file.id for file in files] == [f"natimg-{k:04d}" for k in range(1, IMAGES + 1)]
    whole = decode_image(files[3].path, [(68, 270)])[0]
    np.testing.assert_array_equal(whole, np.repeat(pictures[:, :, 3, None], 3, axis=2))
    savemat(tmp_path / "other.mat", {"x": pictures})
    with pytest.raises(BadInput, match="not laid out like"):
        find_images([tmp_path / "other.mat"])


def make_assembly(*, bins: int = 0) -> xarray.DataArray:
    rng = np.random.default_rng(3)
    axes = ("presentation", "neuroid", *(("time_bin",) if bins else ()))
    return xarray.DataArray(
        rng.standard_normal((8, 5, *((bins,) if bins else ()))),
        dims=axes,
        coords={
            "stimulus_id": ("presentation", [f"image-{k % 4}" for k in range(8)]),
            "repetition": ("presentation", np.repeat([0, 1], 4)),
            "region": ("neuroid", ["V4", "V4", "IT", "IT", "IT"]),
        },
        name="responses",
    )


def write_netcdf4(path: Path, array: xarray.DataArray) -> None:
    """Write a netCDF-4 file by its rules: every dimension a dataset, named as the scale of the axes that it is of."""
    with h5py.File(path, "w") as file:
        for axis, length in zip(array.dims, array.shape, strict=True):
            file.create_dataset(str(axis), data=np.zeros(length)).make_scale(str(axis))
        parts = {"responses": (array.dims, array.values)} | {
            str(name): (item.dims, item.values) for name, item in array.coords.items()
        }
        for name, (axes, values) in parts.items():
            dtype = h5py.string_dtype() if values.dtype.kind == "U" else values.dtype
            data = file.create_dataset(
                name, data=values.astype(object) if values.dtype.kind == "U" else values, dtype=dtype
            )
            for place, axis in enumerate(axes):
                data.dims[place].attach_scale(file[str(axis)])


@pytest.mark.parametrize("form", ["classic", "turned", "netcdf4", "one bin"])
def test_an_assembly_is_read_whatever_its_file_and_the_order_of_its_axes(tmp_path: Path, form: str) -> None:
    array = make_assembly(bins=1) if form == "one bin" else make_assembly()
    path = tmp_path / "a.nc"
    if form == "netcdf4":
        write_netcdf4(path, array)
    else:
        (array.transpose("neuroid", "presentation") if form == "turned" else array).to_netcdf(path, engine="scipy")
    found = read_assembly(path)
    np.testing.assert_allclose(found.values, array.values.reshape(8, 5), rtol=1e-6)
    assert found.names == array.coords["stimulus_id"].values.tolist()
    assert {name: rows.tolist() for name, rows in found.rois.items()} == {
        "V4": [True, True, False, False, False],
        "IT": [False, False, True, True, True],
    }
    loaded = load_responses(path)
    assert loaded.ids == [f"image-{k}" for k in range(4)]
    means = array.values.reshape(2, 4, 5).mean(axis=0)
    np.testing.assert_allclose(loaded.values, means, rtol=1e-5, atol=1e-6)
    assert loaded.rois["IT"].sum() == 3


def test_an_assembly_without_names_or_with_time_is_refused(tmp_path: Path) -> None:
    make_assembly(bins=3).to_netcdf(tmp_path / "time.nc", engine="scipy")
    with pytest.raises(BadInput, match="time_bin"):
        read_assembly(tmp_path / "time.nc")
    make_assembly().drop_vars("stimulus_id").to_netcdf(tmp_path / "nameless.nc", engine="scipy")
    with pytest.raises(BadInput, match="which image"):
        read_assembly(tmp_path / "nameless.nc")
    (tmp_path / "broken.nc").write_bytes(b"CDF\x01 and nothing more")
    with pytest.raises(BadInput, match="netCDF"):
        read_assembly(tmp_path / "broken.nc")


def test_halves_take_turns_and_single_rows_are_in_neither() -> None:
    rows = np.array([0, 1, 0, 0, 2, -1, 1, 0])
    assert halve_repeats(rows).tolist() == [0, 0, 1, 0, -1, -1, 1, 1]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_the_ceiling_is_the_share_of_the_averages_variance_that_is_signal(share: float) -> None:
    rng = np.random.default_rng(4)
    signal = rng.standard_normal((4000, 6)) * np.sqrt(share)
    noise = np.sqrt(2 * (1 - share))  # of one half; of the average of both half as much in variance
    halves = [(signal + noise * rng.standard_normal(signal.shape)).astype(np.float32) for _ in range(2)]
    np.testing.assert_allclose(split_half_ceiling(*halves), share, atol=0.07)
