from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from aligncut_cli.brain import unpickle
from aligncut_cli.brain.unpickle import MAX_BYTES, read_label_mapping
from aligncut_cli.errors import BadInput

HEADER = b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(127) + b"\n"


class Attack:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch hacked",)


class Evaluate:
    def __reduce__(self) -> tuple[object, ...]:
        return eval, ("1",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_the_releases_dictionaries_are_read_whatever_the_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "mapping_prf-visualrois.npy"
    mapping = {0: "Unknown", 1: "V1v", 2: "V1d"}
    file.write_bytes(HEADER + pickle.dumps(np.array(mapping), protocol=protocol))
    assert read_label_mapping(file) == mapping


def test_what_numpy_saves_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", {0: "Unknown", 7: "hV4"})  # type: ignore[arg-type]
    assert read_label_mapping(tmp_path / "m.npy") == {0: "Unknown", 7: "hV4"}


def test_names_of_older_and_newer_numpy_are_both_known(tmp_path: Path) -> None:
    data = pickle.dumps(np.array({3: "EBA"}), protocol=2)
    for core in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        file = tmp_path / "m.npy"
        file.write_bytes(HEADER + data.replace(b"numpy._core.multiarray", core))
        assert read_label_mapping(file) == {3: "EBA"}


def test_numpy_scalars_as_labels_and_names_are_read(tmp_path: Path) -> None:
    mapping = {np.int64(-2): "a", np.uint8(200): np.str_("FFA-1"), np.dtype(">i4").type(5): "c"}
    np.save(tmp_path / "m.npy", mapping)  # type: ignore[arg-type]
    assert read_label_mapping(tmp_path / "m.npy") == {-2: "a", 200: "FFA-1", 5: "c"}


@pytest.mark.parametrize(
    "content",
    [
        Attack(),
        Evaluate(),
        {1: Attack()},
        [1, 2],
        {1: 2},
        {"1": "V1"},
        {1.5: "V1"},
        {True: "V1"},
        {1: b"V1"},
        Path("x"),
    ],
    ids=lambda content: type(content).__name__,
)
def test_anything_but_a_plain_dictionary_is_refused_and_not_run(
    tmp_path: Path, content: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    array = np.empty((), dtype=object)
    array[()] = content
    file = tmp_path / "m.npy"
    file.write_bytes(HEADER + pickle.dumps(array))
    with pytest.raises(BadInput, match=r"m\.npy"):
        read_label_mapping(file)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80\x04",
        b"r\xff\xff\xff\xff.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"cnumpy\nndarray\n}b.",
        b"cnumpy\nndarray\n)R}\x94(X\x01\x00\x00\x00aK\x01ub.",
        b"c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.",
        b"cnumpy\nndarray\n(K\x01tb.",
        b"Pabc\n.",
        b"\x82\x01.",
        b"ios\nsystem\n(.",
    ],
)
def test_hostile_or_broken_pickles_are_refused(tmp_path: Path, pickled: bytes) -> None:
    file = tmp_path / "m.npy"
    file.write_bytes(HEADER + pickled)
    with pytest.raises(BadInput):
        read_label_mapping(file)
    assert not hasattr(unpickle._Array, "state")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = HEADER + pickle.dumps(np.array({1: "V1v", np.int64(2): "V1d"}))
    file = tmp_path / "m.npy"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(BadInput):
            read_label_mapping(file)


def test_a_plain_array_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.arange(3))
    with pytest.raises(BadInput):
        read_label_mapping(tmp_path / "plain.npy")
    (tmp_path / "huge.npy").write_bytes(HEADER + bytes(MAX_BYTES))
    with pytest.raises(BadInput, match="1 MB"):
        read_label_mapping(tmp_path / "huge.npy")
    with pytest.raises(BadInput, match="no such file"):
        read_label_mapping(tmp_path / "none.npy")
