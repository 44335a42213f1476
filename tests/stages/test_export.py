"""`export`: every format holds the store's own numbers, ids say what each row is, and files are made whole or not."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import zarr

from aligncut_cli.stages.export import write
from tests.conftest import TINY, aligncut, done, spawn
from tests.stages.test_segment import write_mask

HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None


def beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


def read_ids(file: Path) -> list[dict[str, str]]:
    with beside(file, ".ids.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def slow_rows(store: Path, array: str, *, model: str | None = None, layer: int | None = None) -> tuple[list, list]:
    """Ids and values of every node, found one by one."""
    root = zarr.open_group(store, mode="r")
    names = [str(name) for name in root["images/id"][...]]
    ids, rows = [], []
    for name in root.attrs["aligncut"]["models"]:
        values, about = root[f"{name}/{array}"][...], root[name].attrs
        for position, number in enumerate(about["layers"]):
            if model not in (None, name) or layer not in (None, number):
                continue
            for image in range(values.shape[1]):
                for token in range(values.shape[2]):
                    row, column = divmod(token - 1, about["grid"][1]) if token else (-1, -1)
                    ids.append([name, number, names[image], token, row, column])
                    rows.append(np.atleast_1d(values[position, image, token]))
    return ids, rows


@pytest.mark.parametrize(
    ("array", "choice"), [("tokens", {}), ("tokens", {"model": "pair", "layer": 2}), ("tokens", {"layer": 1})]
)
def test_rows_and_ids_are_those_of_a_walk_over_all_nodes(
    features: Path, tmp_path: Path, array: str, choice: dict[str, object]
) -> None:
    flags = [word for name, value in choice.items() for word in (f"--{name}", value)]
    file = done("export", features, "-o", tmp_path / "x.npy", "--array", array, *flags)
    ids, rows = slow_rows(features, array, **choice)  # type: ignore[arg-type]
    found = np.load(file)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array(rows, dtype=np.float32))
    assert [list(row.values()) for row in read_ids(file)] == [[str(cell) for cell in row] for row in ids]


def test_every_format_holds_the_same_numbers(eigs: Path, tmp_path: Path) -> None:
    wanted = np.load(done("export", eigs, "-o", tmp_path / "x.npy"))
    with np.load(done("export", eigs, "-o", tmp_path / "x.npz")) as archive:
        np.testing.assert_array_equal(archive["values"], wanted)
        assert list(archive["columns"]) == [f"eigvecs_{index}" for index in range(5)]
    with done("export", eigs, "-o", tmp_path / "x.csv").open(newline="", encoding="utf-8") as lines:
        table = list(csv.DictReader(lines))
    read = np.array([[row[f"eigvecs_{index}"] for index in range(5)] for row in table]).astype(np.float32)
    np.testing.assert_array_equal(read, wanted)  # nine digits lose nothing
    ids = read_ids(tmp_path / "x.npy")
    assert [{name: row[name] for name in ids[0]} for row in table] == ids


@pytest.mark.skipif(not HAS_PYARROW, reason="pyarrow is an optional extra")
def test_parquet_holds_the_same_numbers_and_ids(eigs: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(done("export", eigs, "-o", tmp_path / "x.parquet"))
    wanted = np.load(done("export", eigs, "-o", tmp_path / "x.npy"))
    np.testing.assert_array_equal(np.stack([table[f"eigvecs_{i}"].to_numpy() for i in range(5)], axis=1), wanted)
    assert str(table.schema.field("eigvecs_0").type) == "float"
    assert [{k: str(v) for k, v in row.items()} for row in table.select(range(6)).to_pylist()] == read_ids(
        tmp_path / "x.npy"
    )


def test_parquet_without_pyarrow_says_how_to_get_it(
    eigs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write.importlib.util, "find_spec", lambda name: None)
    result = aligncut("export", eigs, "-o", tmp_path / "x.parquet")
    assert result.code == 2
    assert "aligncut[parquet]" in result.err


def test_sampled_tokens_are_named_by_where_they_were(photos: Path, tmp_path: Path) -> None:
    store = done("extract", photos, "-o", tmp_path / "f.zarr", *TINY, "--workers", 0, "--sample-tokens", 5)
    rows = read_ids(done("export", store, "-o", tmp_path / "x.npy", "--layer", 1))
    kept = zarr.open_group(store, mode="r")["tiny/token"][...].ravel()
    assert [int(row["token"]) for row in rows] == kept.tolist()
    for row in rows:
        place = (int(row["row"]), int(row["column"]))
        assert place == (divmod(int(row["token"]) - 1, 4) if int(row["token"]) else (-1, -1))


def test_means_colours_and_labels_have_their_own_rows(features: Path, tsne: Path, eigs: Path, tmp_path: Path) -> None:
    pooled = done("export", features, "-o", tmp_path / "p.npy", "--array", "pooled")
    root = zarr.open_group(features, mode="r")
    np.testing.assert_array_equal(
        np.load(pooled), np.concatenate([root[f"{m}/pooled"][...].reshape(-1, 192) for m in ("tiny", "pair")])
    )
    assert list(read_ids(pooled)[0]) == ["model", "layer", "image"]
    colours = np.load(done("export", tsne, "-o", tmp_path / "c.npy"))
    np.testing.assert_array_equal(colours, np.array(slow_rows(tsne, "rgb")[1], dtype=np.float32))
    cut = done("segment", eigs, "-o", tmp_path / "s.zarr", "--clusters", 3)
    labels = np.load(done("export", cut, "-o", tmp_path / "l.npy"))
    np.testing.assert_array_equal(labels, np.array(slow_rows(cut, "labels")[1], dtype=np.float32))


def test_scores_stand_side_by_side_for_each_slot(eigs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(12):
        write_mask(tmp_path / "masks" / f"photo-{index:03d}.png", rng.integers(0, 2, (48, 48 + index)))
    store = done("segment", eigs, "-o", tmp_path / "s.zarr", "--masks", tmp_path / "masks")
    with done("export", store, "-o", tmp_path / "s.csv", "--array", "scores").open(encoding="utf-8") as lines:
        table = list(csv.DictReader(lines))
    scores = zarr.open_group(store, mode="r")["scores"]
    assert [(row["model"], int(row["layer"])) for row in table] == [(m, i) for m in ("tiny", "pair") for i in range(3)]
    for number, row in enumerate(table):
        for name in ("miou", "threshold", "bound"):
            assert np.float32(row[name]) == scores[name][number // 3, number % 3]


def test_scores_of_voxels_name_their_regions(features: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32))
    (tmp_path / "rois.json").write_text('{"V1": [0, 1], "FFA": [1, 4]}')
    fit = ["--responses", tmp_path / "r.npy", "--rois", tmp_path / "rois.json", "--universal-dim", 8, "--epochs", 1]
    shares = ["--nodes", 30, "--validation-share", 0.2, "--test-share", 0.2]
    store = done("align", features, "-o", tmp_path / "a.zarr", *fit, *shares)
    file = done("export", store, "-o", tmp_path / "v.npy")
    assert [row["roi"] for row in read_ids(file)] == ["V1", "FFA+V1", "", "", "FFA", ""]
    columns = json.loads(beside(file, ".aligncut.json").read_text())["aligncut"]["columns"]
    np.testing.assert_array_equal(
        np.load(file)[:, columns.index("r2")], zarr.open_group(store, mode="r")["scores/r2"][...]
    )
    readout = np.load(done("export", store, "-o", tmp_path / "w.npy", "--array", "readout/weight"))
    np.testing.assert_array_equal(readout, zarr.open_group(store, mode="r")["readout/weight"][...])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--array", "nothing"], "eigvecs"),
        (["--model", "nobody"], "tiny, pair"),
        (["--layer", 9], "0, 1, 2"),
        (["--array", "eigenvalues", "--layer", 1], "Leave --model and --layer out"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(eigs: Path, tmp_path: Path, flags: list[object], said: str) -> None:
    result = aligncut("export", eigs, "-o", tmp_path / "x.npy", *flags)
    assert result.code == 2
    assert said in result.err
    assert not list(tmp_path.iterdir())


def test_an_array_at_the_root_is_not_taken_for_a_models(tsne: Path, tmp_path: Path) -> None:
    slots = ["--from", "tiny:0", "--to", "tiny:1", "--along", "pair"]
    store = done("transitions", tsne, "-o", tmp_path / "x.zarr", *slots)
    found = np.load(done("export", store, "-o", tmp_path / "r.npy", "--array", "radius"))
    np.testing.assert_array_equal(found[:, 0], zarr.open_group(store, mode="r")["radius"][...].astype(np.float32))
    along = np.load(done("export", store, "-o", tmp_path / "p.npy", "--array", "pair/radius"))
    assert along.shape == (3, 1)


def test_whole_numbers_that_float32_would_round_are_refused(
    eigs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = zarr.open_group(eigs, mode="r")["sample/node"][...]
    np.testing.assert_array_equal(
        np.load(done("export", eigs, "-o", tmp_path / "n.npy", "--array", "sample/node")), nodes
    )
    monkeypatch.setattr("aligncut_cli.stages.export.table.EXACT", int(nodes.max()) - 1)
    assert aligncut("export", eigs, "-o", tmp_path / "m.npy", "--array", "sample/node").code == 2


def test_a_name_that_says_no_format_is_refused(eigs: Path, tmp_path: Path) -> None:
    assert aligncut("export", eigs, "-o", tmp_path / "x.mat").code == 2


def test_models_of_different_widths_are_exported_one_by_one(photos: Path, tmp_path: Path) -> None:
    pair = ["--model", "tiny=vit_tiny_patch16_224@64", "--model", "small=vit_small_patch16_224@64"]
    store = done(
        *("extract", photos, "-o", tmp_path / "f.zarr", *pair, "--weights", "random"),
        *("--layers", 0, "--save", "pooled", "--workers", 0),
    )
    result = aligncut("export", store, "-o", tmp_path / "x.npy")
    assert result.code == 2
    assert "tiny 192, small 384" in result.err
    assert np.load(done("export", store, "-o", tmp_path / "x.npy", "--model", "small")).shape == (12, 384)


def test_ids_with_commas_quotes_and_percents_come_back(tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    names = ['a,b "c"', "50% off", "ü"]
    for name, photo in zip(names, sorted(photos.iterdir()), strict=False):
        (folder / f"{name}.png").write_bytes(photo.read_bytes())
    store = done("extract", folder, "-o", tmp_path / "f.zarr", *TINY, "--workers", 0, "--save", "pooled")
    with done("export", store, "-o", tmp_path / "x.csv", "--layer", 0).open(newline="", encoding="utf-8") as lines:
        assert sorted(row["image"] for row in csv.DictReader(lines)) == sorted(names)


def test_up_to_date_refused_or_replaced_as_any_output(eigs: Path, tmp_path: Path) -> None:
    file = done("export", eigs, "-o", tmp_path / "x.npy")
    before = file.stat().st_mtime_ns
    assert "up to date" in aligncut("export", eigs, "-o", file).err
    os.utime(file)  # copied, but the same
    assert "up to date" in aligncut("export", eigs, "-o", file).err
    assert file.stat().st_mtime_ns != before
    refused = aligncut("export", eigs, "-o", file, "--layer", 1)
    assert refused.code == 4
    assert "layer: None -> 1" in refused.err
    assert len(np.load(done("export", eigs, "-o", file, "--layer", 1, "--overwrite"))) == 2 * 12 * 17
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "x.npy.aligncut.json", "x.npy.ids.csv"]


@pytest.mark.parametrize("name", ["x.npy", "x.npy.ids.csv"])
def test_what_others_made_is_not_replaced(eigs: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert aligncut("export", eigs, "-o", tmp_path / "x.npy", "--overwrite").code == 4
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_that_was_changed_since_is_not_replaced(eigs: Path, tmp_path: Path) -> None:
    file = done("export", eigs, "-o", tmp_path / "x.csv")
    text = file.read_text().replace("tiny", "TINY")
    file.write_text(text)
    assert aligncut("export", eigs, "-o", file, "--overwrite").code == 4
    assert file.read_text() == text


def test_a_dry_run_writes_nothing_and_a_store_is_never_the_output(eigs: Path, tmp_path: Path) -> None:
    result = aligncut("export", eigs, "-o", tmp_path / "x.npy", "-n")
    assert "1224" in result.out.replace(",", "")
    assert not list(tmp_path.iterdir())
    assert aligncut("export", eigs, "-o", eigs / "x.npy").code == 2


def test_killed_at_any_moment_it_ends_with_the_same_files(eigs: Path, tmp_path: Path) -> None:
    wanted = done("export", eigs, "-o", tmp_path / "whole.npy")
    count, step = 1, 5
    while True:
        file = tmp_path / f"{count}.npy"
        process = spawn(["export", eigs, "-o", file, "-q"], kill_after=count)
        process.communicate()
        killed = process.returncode == -signal.SIGKILL
        if killed and file.exists():
            assert file.read_bytes() == wanted.read_bytes()
        done("export", eigs, "-o", file)
        assert file.read_bytes() == wanted.read_bytes()
        assert beside(file, ".ids.csv").read_bytes() == beside(wanted, ".ids.csv").read_bytes()
        assert not file.with_name(file.name + ".wip").exists()
        if not killed:
            break
        count += step
    assert count > 3 * step


def test_ended_between_two_names_it_is_made_again(eigs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the three names was the last to be given, an old file never passes for the new one."""
    real = os.replace
    for after in range(3):
        file = done("export", eigs, "-o", tmp_path / f"{after}.npy")
        left = [after]

        def stop(source: Path, target: Path, left: list[int] = left) -> None:
            if Path(target).parent == tmp_path:
                if not left[0]:
                    raise RuntimeError("power cut")
                left[0] -= 1
            real(source, target)

        monkeypatch.setattr(os, "replace", stop)
        result = aligncut("export", eigs, "-o", file, "--layer", 2, "--overwrite")
        monkeypatch.setattr(os, "replace", real)
        assert result.code == 1
        assert not file.exists()
        assert len(np.load(done("export", eigs, "-o", file, "--layer", 2))) == 2 * 12 * 17


def test_a_stopped_npy_goes_on_from_its_finished_blocks(
    eigs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = done("export", eigs, "-o", tmp_path / "whole.npy").read_bytes()
    written: list[int] = []
    real = write.write_npy_rows

    def fail_at_third(path: Path, first: int, *more: object) -> None:
        written.append(first)
        if len(written) == 3:
            raise KeyboardInterrupt
        real(path, first, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("aligncut_cli.stages.export.phases.write_npy_rows", fail_at_third)
    assert aligncut("export", eigs, "-o", tmp_path / "x.npy").code == 130
    assert aligncut("export", eigs, "-o", tmp_path / "x.npy").code == 0
    assert written == [*written[:3], *written[2:3], *written[4:]]
    assert (tmp_path / "x.npy").read_bytes() == wanted
