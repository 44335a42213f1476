"""Which images there are: files of folders and lists, what they are called in a store, and their hashes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from aligncut_cli.digests import digest_file
from aligncut_cli.errors import BadInput
from aligncut_cli.images import inside
from aligncut_cli.images.names import IMAGE_SUFFIXES

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageFile:
    """An image and what it is called in a store: its path inside the folder, with '/' and mostly without suffix."""

    id: str
    path: Path


def find_images(inputs: Sequence[Path]) -> list[ImageFile]:
    """List the images of folders (recursively, sorted by id), of list files and given singly (both in their order).

    inputs  : folders, `.txt` files with one path per line (relative to the list; '#' begins a comment), images, or
              ImageNet-Segmentation's .mat file with photos inside
    returns : at least one image; ids are unique, relative to the folder or, singly and in lists, the file's stem; where
              these would collide, the suffix is kept, or the path relative to the folder that all share is taken
    """
    relative: list[str] = []  # what each is called inside its input, with suffix
    paths: list[Path] = []
    for given in inputs:
        if given.is_dir():
            found = _walk_folder(given)
            names = [path.relative_to(given).as_posix() for path in found]
            order = sorted(range(len(found)), key=_without_suffix(names).__getitem__)
            relative += [names[index] for index in order]
            paths += [found[index] for index in order]
        elif not given.exists():
            raise BadInput(
                f"no such file or folder: {given}", do="Give a folder with images, a .txt list of them, or images."
            )
        else:
            listed = _list_file(given)
            relative += [path.name for path in listed]
            paths += listed
    if not paths:
        raise BadInput(
            f"no images in {', '.join(map(str, inputs)) or 'nothing'}",
            why=f"Looked for {' '.join(sorted(IMAGE_SUFFIXES))}, except hidden files.",
            do="Give a folder with images, a .txt list of them, or images of any name one by one.",
        )
    _refuse_repeats(paths)
    if len(set(relative)) < len(relative):
        whole = [os.path.abspath(path) for path in paths]
        shared = os.path.commonpath([os.path.dirname(path) for path in whole])
        relative = [Path(os.path.relpath(path, shared)).as_posix() for path in whole]
    files = [ImageFile(*pair) for pair in zip(_without_suffix(relative), paths, strict=True)]
    for file in files:
        if not file.id.isprintable():  # surrogates, which stand for bytes that are no text, are not printable either
            raise BadInput(
                f"the name of an image is no plain text: {os.fsencode(file.path)!r}",
                why="It is the image's id in every store.",
                do="Rename the file.",
            )
    return files


def _walk_folder(folder: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder that was visited
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
        ]
    return found


def _refuse_folder(error: OSError) -> None:
    raise BadInput(f"cannot look into {error.filename}", why=error.strerror or str(error)) from error


def _list_file(path: Path) -> list[Path]:
    if path.suffix.lower() == inside.SUFFIX:
        return inside.list_inside(path)
    return _read_list(path) if path.suffix.lower() == ".txt" else [path]


def _read_list(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the list of images {path}", why=str(error), do="It is UTF-8 text.") from error
    listed = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        image = path.parent / text
        if not image.is_file():
            raise BadInput(
                f"{path}, line {number}: {'is a folder' if image.is_dir() else 'no such file'}: {text}",
                why=f"Looked for {image}; paths in a list are relative to the list.",
                do="Correct the line, or put '#' before it.",
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


def hash_images(files: Sequence[ImageFile], *, progress: OnProgress | None = None) -> list[str]:
    """SHA-256 of each file's bytes, in order; on threads, since hashing leaves Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = []
        for value in pool.map(_hash_file, files):
            hashes.append(value)
            if progress:
                progress(len(hashes), len(files))
    return hashes


def _hash_file(file: ImageFile) -> str:
    if inside.is_inside(file.path):
        return inside.hash_inside(file.path)
    return digest_file(file.path, what="the image")
