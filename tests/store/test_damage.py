"""Stores from outside: chunks that were swapped or lost, records and metadata edited at random, names that steer."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.stages.inspect.run import as_text, describe
from aligncut_cli.store.chunks import pack_checksums, unpack_checksums
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.every import KINDS
from aligncut_cli.store.read import open_store
from aligncut_cli.store.validate import find_declared
from tests.conftest import aligncut, done

TOKENS = "tiny/tokens"
STRANGE = [None, True, -1, 0, 3, 1.5, 10**30, "", "x", "\x1b[31m", "../..", [], [1], [[]], {}, {"a": 1}, ["x", 2]]


@pytest.fixture
def store(tmp_path: Path, features: Path) -> Path:
    return Path(shutil.copytree(features, tmp_path / "f.zarr"))


def chunks_of(store: Path, array: str) -> list[Path]:
    return sorted(file for file in (store / array / "c").rglob("*") if file.is_file())


def read_all(store: Path) -> None:
    """Read as the stages do: axes, then every declared array that is there."""
    opened = open_store(store)
    for model in opened.axes.models:
        for array in KINDS[opened.kind].arrays:
            name = array.at(model.name) if array.fields else array.at()
            if opened.has(name):
                opened.read(name)


# chunks


def test_the_manifest_lists_every_chunk_and_a_good_store_is_verified(store: Path) -> None:
    record = json.loads((store / "zarr.json").read_text())["attributes"]["aligncut"]
    n_chunks = 0
    for name, packed in record["manifest"].items():
        sums = unpack_checksums(packed)
        found = [file.read_bytes()[-4:] for file in chunks_of(store, name)]
        assert sorted(found) == sorted(sums[i : i + 4] for i in range(0, len(sums), 4)), name
        n_chunks += len(found)
    verified = json.loads(aligncut("inspect", store, "--verify", "--json").out)["verified"]
    assert verified["files"] == n_chunks
    read_all(store)


def test_each_swap_of_two_chunks_is_named_by_reading_and_by_verifying(store: Path) -> None:
    chunks = chunks_of(store, TOKENS)
    assert len(chunks) >= 3
    for first, second in itertools.pairwise(chunks):
        one, other = first.read_bytes(), second.read_bytes()
        first.write_bytes(other)
        second.write_bytes(one)
        with pytest.raises(BadInput, match="not the chunk that was written there"):
            open_store(store).read(TOKENS)
        result = aligncut("inspect", store, "--verify")
        assert result.code == 3
        assert f"{first.relative_to(store)}" in result.err
        assert f"{second.relative_to(store)}" in result.err
        first.write_bytes(one)
        second.write_bytes(other)


@pytest.mark.parametrize("what", ["folder", "fifo", "link to nothing", "lost", "cut", "empty", "flipped", "longer"])
def test_a_damaged_chunk_is_named_by_reading_and_by_verifying(store: Path, what: str) -> None:
    chunk = chunks_of(store, TOKENS)[1]
    content = bytearray(chunk.read_bytes())
    chunk.unlink()
    if what == "folder":
        chunk.mkdir()
    elif what == "fifo":
        os.mkfifo(chunk)
    elif what == "link to nothing":
        chunk.symlink_to("nowhere")
    elif what != "lost":
        content[len(content) // 2] ^= 4 if what == "flipped" else 0
        chunk.write_bytes({"cut": content[:-7], "empty": b"", "longer": content + b"x"}.get(what, bytes(content)))
    with pytest.raises(BadInput, match="chunk"):
        open_store(store).read(TOKENS)
    result = aligncut("inspect", store, "--verify")
    assert result.code == 3, what
    assert str(chunk.relative_to(store)) in result.err


def test_a_store_without_a_manifest_is_still_read_and_verified(store: Path) -> None:
    content = json.loads((store / "zarr.json").read_text())
    del content["attributes"]["aligncut"]["manifest"]
    (store / "zarr.json").write_text(json.dumps(content))
    read_all(store)
    assert aligncut("inspect", store, "--verify").code == 0
    chunk = chunks_of(store, TOKENS)[0]
    chunk.unlink()
    chunk.mkdir()
    with pytest.raises(BadInput, match="not a file"):
        open_store(store).read(TOKENS)
    assert aligncut("inspect", store, "--verify").code == 3


def test_verifying_names_foreign_files_and_a_changed_file_of_a_folder(tmp_path: Path, features: Path) -> None:
    folder = done("compare", features, "-o", tmp_path / "c")
    assert aligncut("inspect", folder, "--verify").code == 0
    table = next(folder.glob("*.csv"))
    table.write_text(table.read_text().replace("0", "1", 1))
    (folder / "notes.txt").write_text("mine")
    result = aligncut("inspect", folder, "--verify")
    assert result.code == 3
    assert table.name in result.err
    assert "notes.txt: it was not made by aligncut" in result.err


def test_checksums_are_packed_in_the_order_of_the_grid(tmp_path: Path) -> None:
    for i, j in np.ndindex(2, 3):
        (tmp_path / "c" / str(i)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "c" / str(i) / str(j)).write_bytes(b"data" + bytes([i, j, 0, 0]))
    expected = b"".join(bytes([i, j, 0, 0]) for i, j in np.ndindex(2, 3))
    assert unpack_checksums(pack_checksums(tmp_path, (2, 3))) == expected


# records and metadata


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the way to everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def edit(content: Any, place: tuple[Any, ...], value: Any, *, drop: bool) -> Any:
    edited = copy.deepcopy(content)
    if not place:
        return value
    parent = edited
    for key in place[:-1]:
        parent = parent[key]
    if drop:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return edited


def use(store: Path) -> None:
    as_text(describe(store))
    json.dumps(describe(store), allow_nan=False)
    read_all(store)


@pytest.mark.parametrize("seed", range(4))
def test_no_edit_of_a_record_or_of_metadata_is_a_bug(store: Path, seed: int) -> None:
    """150 edits each: every value in turn is dropped or replaced by something strange; an error is one of ours."""
    file = store / "zarr.json"
    content = json.loads(file.read_text())
    every = places(content)
    rng = np.random.default_rng(seed)
    refused = 0
    for _ in range(150):
        place = every[rng.integers(len(every))]
        value = STRANGE[rng.integers(len(STRANGE))]
        drop = bool(rng.integers(5) == 0)
        file.write_text(json.dumps(edit(content, place, value, drop=drop)))
        try:
            use(store)
        except (BadInput, UsageError):
            refused += 1
        except Exception as error:
            raise AssertionError(f"{place} {'dropped' if drop else value!r}") from error
    assert refused > 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not readable"),
        (b"\xff\xfe", "not readable"),
        (b"[]", "no table"),
        (b"[" * 100_000, "not readable"),
        (b'{"attributes": []}', "no table"),
        (b'{"attributes": {"aligncut": []}}', "no table"),
        (b'{"attributes": {"aligncut": {"schema": NaN}}}', "no number in JSON"),
        (b'{"attributes": {"aligncut": {"schema": 99, "kind": 3}}}', "later version"),
    ],
)
def test_a_file_that_is_no_record_is_said_plainly(store: Path, text: bytes, words: str) -> None:
    (store / "zarr.json").write_bytes(text)
    for args in (["inspect", store], ["eigs", store, "-o", store.parent / "e.zarr"]):
        result = aligncut(*args)
        assert result.code == 3, result.err
        assert words in result.err
    result = aligncut("extract", store.parent / "none", "-o", store, "--overwrite")
    assert result.code == 3
    assert (store / "zarr.json").read_bytes() == text


def test_an_array_of_another_type_or_shape_than_its_kind_says_is_refused(store: Path) -> None:
    content = json.loads((store / "zarr.json").read_text())
    nodes = content["consolidated_metadata"]["metadata"]
    for key, value in [("dimension_names", ["a", "b", "c", "d"]), ("data_type", "int16"), ("shape", [3, 6, 17, 192])]:
        edited = copy.deepcopy(content)
        assert key in nodes[TOKENS]
        edited["consolidated_metadata"]["metadata"][TOKENS][key] = value
        (store / "zarr.json").write_text(json.dumps(edited))
        with pytest.raises(BadInput):
            open_store(store).read(TOKENS)


def test_each_declared_array_is_found_by_its_path_and_no_other() -> None:
    for kind in KINDS.values():
        for array in kind.arrays:
            assert find_declared(kind.name, array.at(*(f"some-{field}" for field in array.fields))) == array
    assert find_declared("features", "clip/other") is None


# what others see


def test_cells_that_a_spreadsheet_would_compute_are_text_and_numbers_stay_numbers(tmp_path: Path) -> None:
    rows = [["=1+1", -0.5, "@x"], ["+cmd", None, "-1.5"], ["a=b", float("nan"), "\ttab"]]
    write_csv(tmp_path / "t.csv", ["-name", "value", "more"], rows, controls=["=evil"])
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "'-name,value,more,control",
        "'=1+1,-0.5,'@x,'=evil",
        "'+cmd,,-1.5,'=evil",
        "a=b,,'\ttab,'=evil",
    ]


def test_escape_codes_in_a_record_or_a_name_are_shown_and_not_obeyed(store: Path) -> None:
    content = json.loads((store / "zarr.json").read_text())
    content["attributes"]["aligncut"]["params"]["\x1b[31m"] = "\x9b2J\u202e"
    (store / "zarr.json").write_text(json.dumps(content))
    shown = aligncut("inspect", store)
    assert shown.code == 0
    assert "\\x1b[31m" in shown.out
    missing = aligncut("inspect", store.parent / "a\x1b]0;evil\x07")
    for text in (shown.out, missing.err):
        assert not set(text) & {"\x1b", "\x9b", "\x07", "\u202e"}


def test_a_link_in_a_folder_does_not_bring_its_target_into_a_report(tmp_path: Path, features: Path) -> None:
    folder = done("compare", features, "-o", tmp_path / "c")
    (tmp_path / "secret.csv").write_text("name,key\nme,hunter2\n")
    (folder / "leak.csv").symlink_to(tmp_path / "secret.csv")
    page = done("report", folder, "-o", tmp_path / "report")
    assert not any("hunter2" in file.read_text(errors="replace") for file in page.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("made", "array"), [("eigs", "tiny/eigvecs"), ("tsne", "tiny/coords"), ("tsne", "sample/coords")]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_inside_a_valid_chunk_is_named_where_it_is_read(
    tmp_path: Path, request: pytest.FixtureRequest, made: str, array: str, value: float
) -> None:
    store = Path(shutil.copytree(request.getfixturevalue(made), tmp_path / "s.zarr"))
    opened = zarr.open_group(store, mode="r+", use_consolidated=False)[array]
    assert isinstance(opened, zarr.Array)
    opened[(-1,) * opened.ndim] = value
    metadata = json.loads((store / "zarr.json").read_text())
    del metadata["attributes"]["aligncut"]["manifest"]
    (store / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(BadInput, match=f"{array}.*NaN or infinite"):
        open_store(store).read(array)
