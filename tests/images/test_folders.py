"""What people's folders hold besides plain photos: odd suffixes and names, links, pipes, our own pictures, lists."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligncut_cli.errors import BadInput
from aligncut_cli.images import folder as folders
from aligncut_cli.images.files import UNREADABLE, find_images, hash_images
from aligncut_cli.images.folder import OUR_RECORDS, OUR_WORK, walk_files
from aligncut_cli.images.workers import check_images
from aligncut_cli.store.place import RECORD
from aligncut_cli.store.provenance import FOLDER_RECORD


def save(path: Path, image_format: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (200, 10, 10)).save(path, format=image_format)
    return path


def ids(*inputs: Path) -> list[str]:
    return [file.id for file in find_images(inputs)]


FORMATS = {
    "a.jfif": "JPEG", "b.jpe": "JPEG", "c.mpo": "JPEG", "d.jp2": "JPEG2000", "e.tga": "TGA", "f.ppm": "PPM",
    "g.pbm": "PPM", "h.dib": "DIB", "i.pcx": "PCX", "j.apng": "PNG", "k": "JPEG", "l.001": "PNG",
}  # fmt: skip


def test_whatever_pillow_reads_is_taken_from_a_folder(tmp_path: Path) -> None:
    for name, image_format in FORMATS.items():
        save(tmp_path / name, image_format)
    files = find_images([tmp_path])
    assert sorted(file.path.name for file in files) == sorted(FORMATS)
    good, sizes, bad = check_images(files, workers=0, skip_bad=False)
    assert (len(good), set(sizes), bad) == (len(FORMATS), {(4, 6)}, [])


def test_the_rest_is_counted_and_named_in_one_line(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    for name in ("README", "notes.md", "data.csv", "photo.heic", "run.sh"):
        (tmp_path / name).write_text("text")
    said: list[str] = []
    find_images([tmp_path], note=said.append)
    assert len(said) == 1
    assert "left out 5 files that are no images: README, data.csv, notes.md and 2 more" in said[0]
    assert "pillow-heif" in said[0]
    said.clear()
    for number in range(5):  # many of a kind do not hide the others
        (tmp_path / f"a{number}.md").write_text("text")
    find_images([tmp_path], note=said.append)
    assert "left out 10 files that are no images: README, a0.md, data.csv and 7 more" in said[0]
    said.clear()
    find_images([save(tmp_path / "only/a.jpg").parent], note=said.append)
    assert said == []


def test_what_we_wrote_into_a_folder_of_photos_is_no_photo(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    for inside in ("pictures", "report/figures", "f.zarr", "pictures.wip/out"):
        save(tmp_path / inside / "b.png")
    (tmp_path / "pictures" / FOLDER_RECORD).write_text("{}")
    (tmp_path / "report" / FOLDER_RECORD).write_text("{}")
    (tmp_path / "f.zarr" / "zarr.json").write_text("{}")
    (tmp_path / "pictures.wip" / RECORD).write_text("{}")
    assert ids(tmp_path) == ["a"]
    assert ids(tmp_path / "pictures") == ["b"]  # asked for by name
    assert FOLDER_RECORD in OUR_RECORDS
    assert OUR_WORK[1] == RECORD


@pytest.mark.parametrize(
    "name",
    ["a\u00a0b", "a\u3000b", "👩\u200d🔬", "a\u200fb", "a\u2028b", "\uff46ull", "日本", "a\u00ad", "\u00a0a\u00a0"],
)
def test_every_name_but_control_characters_is_plain_text(tmp_path: Path, name: str) -> None:
    save(tmp_path / f"{name}.jpg")
    assert ids(tmp_path) == [name]
    (tmp_path / "list.txt").write_text(f"{name}.jpg\r\n", encoding="utf-8", newline="")
    assert ids(tmp_path / "list.txt") == [name]


@pytest.mark.parametrize("name", ["a\x7fb", "a\x85b", "a\tb", "a\x1bb"])
def test_control_characters_are_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / f"{name}.jpg")
    with pytest.raises(BadInput, match="no plain text"):
        find_images([tmp_path])


def test_names_that_only_differ_in_how_accents_are_written_stay_two(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        save(tmp_path / f"{unicodedata.normalize(form, 'é')}.jpg")
    assert len(set(ids(tmp_path))) == 2


def bad_folder(tmp_path: Path) -> Path:
    """One photo, and what cannot be read: a link to nothing, a text, and a file that the system will not open."""
    save(tmp_path / "in/a.jpg")
    (tmp_path / "in/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "in/text.png").write_text("no image")
    save(tmp_path / "in/closed.jpg")
    return tmp_path / "in"


def test_skip_bad_leaves_out_whatever_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = bad_folder(tmp_path)
    opened = Path.open

    def refuse(path: Path, *args: object, **more: object):  # type: ignore[no-untyped-def]
        if path.name == "closed.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refuse)
    files = find_images([where], skip_bad=True)
    assert [file.id for file in files] == ["a", "closed", "gone", "text"]
    hashes = hash_images(files, skip_bad=True)
    assert [value == UNREADABLE for value in hashes] == [False, True, True, False]
    good, _, bad = check_images(files, workers=0, skip_bad=True)
    assert {file.id for file, _ in bad} >= {"gone", "text"}
    assert "a" in {file.id for file in good}
    with pytest.raises(BadInput, match="--skip-bad"):
        hash_images(files)


def test_lines_of_a_list_that_lead_nowhere_can_be_skipped_too(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "list.txt").write_text("a.jpg\nfolder.jpg\ngone.jpg\n")
    with pytest.raises(BadInput, match="line 2: is a folder"):
        find_images([tmp_path / "list.txt"])
    files = find_images([tmp_path / "list.txt"], skip_bad=True)
    hash_images(files, skip_bad=True)
    good, _, bad = check_images(files, workers=0, skip_bad=True)
    assert ([file.id for file in good], len(bad)) == (["a"], 2)


def test_a_list_from_windows_or_with_a_home_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "p/a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    for encoding in ("utf-8", "utf-16"):  # PowerShell writes the latter
        (tmp_path / "list.txt").write_text("p\\a.jpg\r\n", newline="", encoding=encoding)
        assert ids(tmp_path / "list.txt") == ["a"]
    (tmp_path / "list.txt").write_text("~/p/a.jpg\n")
    assert ids(tmp_path / "list.txt") == ["a"]


def test_pipes_are_never_opened(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    for name in ("pipe.jpg", "pipe"):
        os.mkfifo(tmp_path / name)
    assert ids(tmp_path) == ["a"]
    given = find_images([tmp_path / "pipe.jpg"])
    with pytest.raises(BadInput, match="pipe or device"):
        hash_images(given)
    with pytest.raises(BadInput, match="pipe or a device"):
        check_images(given, workers=0, skip_bad=False)
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(BadInput, match="pipe or device"):
        find_images([tmp_path / "list.txt"])


def test_a_folder_that_cannot_be_looked_into_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.jpg")
    closed = tmp_path / "closed"
    closed.mkdir()
    real = os.scandir

    def refuse(path: object):  # type: ignore[no-untyped-def]
        if os.fspath(path) == str(closed):  # type: ignore[call-overload]
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(folders.os, "scandir", refuse)
    with pytest.raises(BadInput, match=r"cannot look into .*closed"):
        walk_files(tmp_path)
    faults: list[Path] = []
    assert walk_files(tmp_path, on_fault=lambda path, reason: faults.append(path)) == [tmp_path / "a.jpg"]
    assert faults == [closed]


def test_photos_inside_nsds_file_are_called_by_their_number(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    bricks = np.random.default_rng(0).integers(0, 256, (5, 8, 9, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "nsd_stimuli.hdf5", "w") as file:
        file["imgBrick"] = bricks
    files = find_images([tmp_path / "nsd_stimuli.hdf5"])
    assert [file.id for file in files] == [f"nsd-0000{k}" for k in range(5)]
    (tmp_path / "some.txt").write_text("nsd_stimuli.hdf5/nsd-00003\nnsd_stimuli.hdf5/nsd-00001\n")
    some = find_images([tmp_path / "some.txt"])
    assert [file.id for file in some] == ["nsd-00003", "nsd-00001"]
    assert check_images(some, workers=0, skip_bad=False)[1] == [(8, 9), (8, 9)]
    from aligncut_cli.images.decode import decode_image

    np.testing.assert_array_equal(decode_image(some[0].path, [(8, 9)])[0], bricks[3])
    assert len(set(hash_images(files))) == 5
    (tmp_path / "some.txt").write_text("nsd_stimuli.hdf5/nsd-00005\n")
    with pytest.raises(BadInput, match="no such file"):
        find_images([tmp_path / "some.txt"])
