"""Image files: which there are, their names and their pixels; imports no torch, so that workers start fast."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import struct
import threading
import warnings
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from aligncut_cli.errors import BadInput, OutOfResources
from aligncut_cli.models import images_inside

Pixels = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]
T = TypeVar("T")
R = TypeVar("R")

# What is taken from a folder; a file that is named itself may be called anything.
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"))

_ORIENTATION_TAG = 0x0112
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's readers raise on broken files: they have no common type, and each format has its own ideas.
_BROKEN_FILE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    KeyError,
    IndexError,
    OverflowError,
    RuntimeError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ImageFile:
    """An image and what it is called in a store: its path inside the folder, with '/' and mostly without suffix."""

    id: str
    path: Path


# ---- which images


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
            why=f"Looked for {' '.join(sorted(SUFFIXES))}, except hidden files.",
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
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    return found


def _refuse_folder(error: OSError) -> None:
    raise BadInput(f"cannot look into {error.filename}", why=error.strerror or str(error)) from error


def _list_file(path: Path) -> list[Path]:
    if path.suffix.lower() == images_inside.SUFFIX:
        return images_inside.list_inside(path)
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


def hash_images(files: Sequence[ImageFile], *, progress: Progress | None = None) -> list[str]:
    """SHA-256 of each file's bytes, in order; on threads, since hashing leaves Python's lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = []
        for value in pool.map(_hash_file, files):
            hashes.append(value)
            if progress:
                progress(len(hashes), len(files))
    return hashes


def _hash_file(file: ImageFile) -> str:
    if images_inside.is_inside(file.path):
        return images_inside.hash_inside(file.path)
    try:
        with file.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read the image {file.path}", why=error.strerror or str(error)) from error


# ---- their pixels


def image_exists(path: Path) -> bool:
    """Return whether a photo is still where a store says it was."""
    return path.is_file() or images_inside.has_inside(path)


def _open_image(path: Path) -> Image.Image:
    return images_inside.read_inside(path) if images_inside.is_inside(path) else Image.open(path)


def check_image(path: Path) -> tuple[int, int]:
    """Read all of an image, coarsely where its format allows, and return (height, width) as it is meant to be seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what it cannot read is an error
        try:
            with _open_image(path) as image:
                width, height = image.size
                # For JPEG, an eighth of the size costs a fraction of the decoding and still reads every byte.
                image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
                _to_rgb(image)
                turned = _orientation(image) in (5, 6, 7, 8)
        except _BROKEN_FILE as error:
            raise _undecodable(path, error) from error
    return (width, height) if turned else (height, width)


def decode_image(path: Path, sizes: Sequence[tuple[int, int]]) -> list[Pixels]:
    """Decode an image as it is meant to be seen, and resize it without cropping.

    sizes   : (h, w) in pixels of each copy wanted
    returns : for each, (h, w, 3) uint8 RGB; bicubic with antialiasing; transparency on white
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _open_image(path) as image:
                seen = _to_rgb(image)
                turn = _TRANSPOSED.get(_orientation(image))
                if turn is not None:
                    seen = seen.transpose(turn)
                return [np.array(seen.resize((w, h), Image.Resampling.BICUBIC)) for h, w in sizes]
        except _BROKEN_FILE as error:
            raise _undecodable(path, error) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    # Pillow reads 16-bit grey PNGs as "I;16", older versions as "I"; elsewhere "I" is 32-bit of any range.
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ValueError("it has 32 bits per pixel, and which value is white is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16-bit grey: 65535 becomes 255
        values = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """How a loaded image has yet to be turned; Pillow turns TIFFs itself while it loads them."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _BROKEN_FILE:  # unreadable metadata says nothing about the pixels
        return 1


def _undecodable(path: Path, error: Exception) -> BadInput:
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "it is empty" if os.path.getsize(path) == 0 else "it is no image of a format that Pillow reads"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return BadInput(
        f"cannot decode the image {path}: {reason}",
        do="Replace or remove the file, or leave such files out: --skip-bad",
    )


def check_images(
    files: Sequence[ImageFile], *, workers: int, skip_bad: bool, progress: Progress | None = None
) -> tuple[list[ImageFile], list[tuple[int, int]], list[tuple[ImageFile, str]]]:
    """Read every image once, so that a bad one is known before hours are spent.

    workers  : processes; 0 reads in this one
    skip_bad : list bad images instead of raising an error that names them
    progress : called with (images read, of how many)
    returns  : the good images; their (height, width); the bad ones with the reason
    """
    good: list[ImageFile] = []
    sizes: list[tuple[int, int]] = []
    bad: list[tuple[ImageFile, str]] = []
    with _Pool(workers) as pool:
        results = pool.map_in_order(_check_or_reason, [file.path for file in files], ahead=256)
        for done, (file, result) in enumerate(zip(files, results, strict=True), 1):
            if isinstance(result, str):
                bad.append((file, result))
            else:
                good.append(file)
                sizes.append(result)
            if progress:
                progress(done, len(files))
    if bad and (not skip_bad or not good):
        raise _bad_images(bad, len(files))
    return good, sizes, bad


def _bad_images(bad: Sequence[tuple[ImageFile, str]], count: int) -> BadInput:
    shown = "\n".join(f"  {reason}" for _, reason in bad[:5])
    more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
    return BadInput(
        f"{len(bad)} of {count} images cannot be used:\n{shown}{more}",
        do="Give other images." if len(bad) == count else "Replace or remove them, or leave them out: --skip-bad",
    )


def _check_or_reason(path: Path) -> tuple[int, int] | str:
    try:
        return check_image(path)
    except BadInput as error:
        return error.what


class ImageDecoder:
    """Decodes images in worker processes, ahead of who consumes them; enter it with `with` and iterate once.

    files   : in the order in which they come out
    sizes   : (h, w) of the copies made of each image
    workers : processes, which begin at once; 0 decodes in this one, when asked for the next
    ahead   : how many images may be waiting; what bounds the memory
    """

    def __init__(
        self, files: Sequence[ImageFile], sizes: Sequence[tuple[int, int]], *, workers: int, ahead: int = 128
    ) -> None:
        self._paths, self._ahead = [file.path for file in files], ahead
        self._decode = partial(decode_image, sizes=tuple(sizes))
        self._pool = _Pool(workers)
        self._results: Iterator[list[Pixels]] = iter(())

    def __enter__(self) -> Self:
        self._pool.__enter__()
        self._results = self._pool.map_in_order(self._decode, self._paths, ahead=self._ahead)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[list[Pixels]]:
        """One list per image: (h, w, 3) uint8 for each of the sizes."""
        return self._results


# ---- worker processes


class _Pool:
    """Worker processes that keep results in order, bound what waits, and never outlive their parent."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._workers > 0:
            # Not fork: the parent has torch's threads and perhaps a GPU.
            context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
            if os.name == "posix":
                context.set_forkserver_preload(["__main__", __name__])
            self._executor = ProcessPoolExecutor(self._workers, context, initializer=_start_worker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def map_in_order(self, function: Callable[[T], R], items: Sequence[T], *, ahead: int) -> Iterator[R]:
        """Like `map`, but begins at once, with at most `ahead` results waiting."""
        if self._executor is None:
            return map(function, items)
        waiting: deque[Future[R]] = deque()
        self._submit(function, items[: max(1, ahead)], waiting)
        return self._collect(function, items, waiting)

    def _collect(self, function: Callable[[T], R], items: Sequence[T], waiting: deque[Future[R]]) -> Iterator[R]:
        following = len(waiting)
        while waiting:
            with _death_explained():
                result = waiting.popleft().result()
            self._submit(function, items[following : following + 1], waiting)
            following += 1
            yield result

    def _submit(self, function: Callable[[T], R], items: Sequence[T], waiting: deque[Future[R]]) -> None:
        if self._executor is None:
            raise RuntimeError("the worker processes are closed")
        with _death_explained():
            for item in items:
                waiting.append(self._executor.submit(function, item))


@contextlib.contextmanager
def _death_explained() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise OutOfResources(
            "a worker process died while it read images",
            why="The system may have run out of memory and stopped it.",
            do="Use fewer: --workers 1",
        ) from error


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent is gone, even by SIGKILL: the executor's queue would keep it waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
