"""Which images there are: files of folders and lists, what they are called in a store, and their hashes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aligncut_cli.digests import digest_file
from aligncut_cli.errors import BadInput
from aligncut_cli.images import inside
from aligncut_cli.images.decode import is_picture, readable_suffixes
from aligncut_cli.images.folder import is_regular, name_some, walk_files
from aligncut_cli.images.guard import BLANK, read_text
from aligncut_cli.images.names import HEIF_SUFFIXES, IMAGE_SUFFIXES, is_safe_name

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageFile:
    """An image and what it is called in a store: its path inside the folder, with '/' and mostly without suffix."""

    id: str
    path: Path


def find_images(
    inputs: Sequence[Path], *, skip_bad: bool = False, note: Callable[[str], None] | None = None
) -> list[ImageFile]:
    """List the images of folders (recursively, sorted by id), of list files and given singly (both in their order).

    inputs   : folders, `.txt` files with one path per line (relative to the list; '#' begins a comment), images, or
               a file with photos inside: ImageNet-Segmentation's .mat, NSD's nsd_stimuli.hdf5
    skip_bad : keep lines of lists that lead nowhere, for `check_images` to name, and pass folders that are closed
    note     : called with one line that counts and names what was left out of folders
    returns  : at least one image; ids are unique, relative to the folder or, singly and in lists, the file's stem;
               where these would collide, the suffix is kept, or the path relative to the folder that all share is taken
    """
    relative: list[str] = []  # what each is called inside its input, with suffix
    paths: list[Path] = []
    rest: list[Path] = []
    for given in inputs:
        if given.is_dir():
            found = _list_folder(given, rest, skip_bad=skip_bad)
            names = [path.relative_to(given).as_posix() for path in found]
            order = sorted(range(len(found)), key=_without_suffix(names).__getitem__)
            relative += [names[index] for index in order]
            paths += [found[index] for index in order]
        elif not (given.exists() or inside.has_inside(given)):
            raise BadInput(
                f"no such file or folder: {given}", do="Give a folder with images, a .txt list of them, or images."
            )
        else:
            listed = _list_file(given, skip_bad=skip_bad)
            relative += [path.name for path in listed]
            paths += listed
    if not paths:
        raise BadInput(
            f"no images in {', '.join(map(str, inputs)) or 'nothing'}",
            why=f"Looked for {' '.join(sorted(IMAGE_SUFFIXES))}, except hidden files."
            + (f" There is {name_some(rest)}." if rest else ""),
            do="Give a folder with images, a .txt list of them, or images of any name one by one.",
        )
    if rest and note is not None:
        heic = any(path.suffix.lower() in HEIF_SUFFIXES for path in rest)
        more = "; HEIC is read once pillow-heif is installed: pip install pillow-heif" if heic else ""
        what = "file that is no image" if len(rest) == 1 else "files that are no images"
        note(f"left out {len(rest):,} {what}: {name_some(_vary(rest))}{more}")
    _refuse_repeats(paths)
    if len(set(relative)) < len(relative):
        whole = [os.path.abspath(path) for path in paths]
        shared = os.path.commonpath([os.path.dirname(path) for path in whole])
        relative = [Path(os.path.relpath(path, shared)).as_posix() for path in whole]
    files = [ImageFile(*pair) for pair in zip(_without_suffix(relative), paths, strict=True)]
    for file in files:
        if not is_safe_name(file.id):
            raise BadInput(
                f"the name of an image is no plain text: {os.fsencode(file.path)!r}",
                why="It is the image's id in every store.",
                do="Rename the file.",
            )
    return files


def _vary(paths: Sequence[Path]) -> list[Path]:
    """Put the first file of each suffix first, so that naming a few shows every kind."""
    met: Counter[str] = Counter()
    rank: dict[Path, int] = {}
    for path in paths:
        rank[path] = met[path.suffix.lower()]
        met[path.suffix.lower()] += 1
    return sorted(paths, key=rank.__getitem__)


def _list_folder(folder: Path, rest: list[Path], *, skip_bad: bool) -> list[Path]:
    """Return the images of a folder, and add its other files to `rest`; files without suffix are looked into."""

    def pass_by(path: Path, reason: str) -> None:
        rest.append(path)

    found: list[Path] = []
    for path in walk_files(folder, on_fault=pass_by if skip_bad else None):
        suffix = path.suffix.lower()
        known = suffix in readable_suffixes() or (not suffix[1:].isalpha() and is_picture(path))
        (found if known and is_regular(path) else rest).append(path)
    return found


def _list_file(path: Path, *, skip_bad: bool) -> list[Path]:
    if path.suffix.lower() in inside.SUFFIXES and path.is_file():
        return inside.list_inside(path)
    return _read_list(path, skip_bad=skip_bad) if path.suffix.lower() == ".txt" else [path]


def _read_list(path: Path, *, skip_bad: bool) -> list[Path]:
    lines = read_text(path, "a list of images, one path per line").split("\n")
    listed = []
    for number, line in enumerate(lines, 1):
        text = line.strip(BLANK)
        if not text or text.startswith("#"):
            continue
        image = path.parent / Path(text).expanduser()
        if "\\" in text and not image.exists():  # a list from Windows
            image = path.parent / text.replace("\\", "/")
        if not (skip_bad or image.is_file() or inside.has_inside(image)):
            raise BadInput(
                f"{path}, line {number}: {'is a folder' if image.is_dir() else 'no such file'}: {text}",
                why=f"Looked for {image}; paths in a list are relative to the list.",
                do="Correct the line, put '#' before it, or leave such lines out: --skip-bad",
            )
        listed.append(image)
    return listed


def _refuse_repeats(paths: Sequence[Path]) -> None:
    """An image given twice is refused rather than dropped: rows of responses may count on the list's length."""
    whole = [os.path.abspath(path) for path in paths]
    repeated = [path for path, count in Counter(whole).items() if count > 1]
    if repeated:
        raise BadInput(
            f"{len(repeated)} {'images are' if len(repeated) > 1 else 'image is'} given more than once, "
            f"for example {repeated[0]}",
            why="Every image has one place in a store.",
            do="Give each image once.",
        )


def _without_suffix(names: Sequence[str]) -> list[str]:
    """Cut the suffixes off where that leaves no two names equal."""
    short = [os.path.splitext(name)[0] for name in names]
    count = Counter(short)
    cut = [name if count[stem] > 1 else stem for name, stem in zip(names, short, strict=True)]
    # `a.jpg` kept whole beside `a.jpg.png` cut short
    return cut if len(set(cut)) == len(cut) else list(names)


UNREADABLE = "unreadable"


def hash_images(files: Sequence[ImageFile], *, skip_bad: bool = False, progress: OnProgress | None = None) -> list[str]:
    """SHA-256 of each file's bytes, in order; on threads, since hashing leaves Python's lock.

    skip_bad : give a file that cannot be read UNREADABLE, for `check_images` to name, instead of raising
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = []
        for value in pool.map(partial(_hash_file, skip_bad=skip_bad), files):
            hashes.append(value)
            if progress:
                progress(len(hashes), len(files))
    return hashes


def _hash_file(file: ImageFile, *, skip_bad: bool) -> str:
    try:
        if inside.is_inside(file.path):
            return inside.hash_inside(file.path)
        return digest_file(file.path, what="the image")
    except BadInput as error:
        if skip_bad:
            return UNREADABLE
        raise BadInput(
            error.what, why=error.why, do="Replace or remove the file, or leave such files out: --skip-bad"
        ) from error
