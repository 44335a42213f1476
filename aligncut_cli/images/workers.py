"""Worker processes that check and decode images ahead of who needs them, and never outlive their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from aligncut_cli.errors import BadInput, OutOfResources
from aligncut_cli.images.band import Band
from aligncut_cli.images.decode import Copy, Pixels, decode_image, look_at_image
from aligncut_cli.images.files import ImageFile, OnProgress
from aligncut_cli.images.folder import name_some

# A socket's path has at most 103 bytes on macOS and 107 on Linux; 32 are `/pymp-XXXXXXXX/listener-XXXXXXXX`.
LONGEST_TEMPDIR = 103 - 32

T = TypeVar("T")
R = TypeVar("R")


def check_images(
    files: Sequence[ImageFile],
    *,
    workers: int,
    skip_bad: bool,
    progress: OnProgress | None = None,
    note: Callable[[str], None] | None = None,
) -> tuple[list[ImageFile], list[tuple[int, int]], list[tuple[ImageFile, str]]]:
    """Read every image once, so that a bad one is known before hours are spent.

    workers  : processes; 0 reads in this one
    skip_bad : list bad images instead of raising an error that names them
    progress : called with (images read, of how many)
    note     : called once with the names of images that have several frames or pages, of which the first is taken
    returns  : the good images; their (height, width); the bad ones with the reason
    """
    good: list[ImageFile] = []
    sizes: list[tuple[int, int]] = []
    bad: list[tuple[ImageFile, str]] = []
    several: list[Path] = []
    with _Pool(workers) as pool:
        results = pool.map_in_order(_check_or_reason, [file.path for file in files], ahead=256)
        for done, (file, result) in enumerate(zip(files, results, strict=True), 1):
            if isinstance(result, str):
                bad.append((file, result))
            else:
                size, has_frames = result
                good.append(file)
                sizes.append(size)
                several += [file.path] * has_frames
            if progress:
                progress(done, len(files))
    if bad and (not skip_bad or not good):
        raise _bad_images(bad, len(files))
    if several and note is not None:
        note(f"{len(several):,} images have several frames or pages, the first is taken: {name_some(several)}")
    return good, sizes, bad


def _bad_images(bad: Sequence[tuple[ImageFile, str]], count: int) -> BadInput:
    shown = "\n".join(f"  {reason}" for _, reason in bad[:5])
    more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
    return BadInput(
        f"{len(bad)} of {count} images cannot be used:\n{shown}{more}",
        do="Give other images." if len(bad) == count else "Replace or remove them, or leave them out: --skip-bad",
    )


def _check_or_reason(path: Path) -> tuple[tuple[int, int], bool] | str:
    try:
        return look_at_image(path)
    except BadInput as error:
        return error.what


class ImageDecoder:
    """Decodes images in worker processes, ahead of who consumes them; enter it with `with` and iterate once.

    files   : in the order in which they come out
    copies  : made of each image, or their (h, w) where they are bicubic
    workers : processes, which begin at once; 0 decodes in this one, when asked for the next
    ahead   : how many images may be waiting; what bounds the memory
    band    : spatial frequencies that are kept of each; None is all
    """

    def __init__(
        self,
        files: Sequence[ImageFile],
        copies: Sequence[tuple[int, int] | Copy],
        *,
        workers: int,
        ahead: int = 128,
        band: Band | None = None,
    ) -> None:
        self._paths, self._ahead = [file.path for file in files], ahead
        self._decode = partial(decode_image, copies=tuple(copies), band=band)
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
        """One list per image: (h, w, 3) uint8 for each of the copies."""
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
            context = multiprocessing.get_context("forkserver" if _sockets_fit() else "spawn")
            if _sockets_fit():
                context.set_forkserver_preload(["__main__", __name__])
            sockets = (multiprocessing.util.get_temp_dir(),)
            self._executor = ProcessPoolExecutor(self._workers, context, initializer=_start_worker, initargs=sockets)
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


def _sockets_fit() -> bool:
    """Return whether a fork server can be reached: its socket lies in TMPDIR, and the system bounds such a path.

    Batch systems make long ones. Processes that are spawned need no socket, and take longer to start.
    """
    return os.name == "posix" and len(os.fsencode(tempfile.gettempdir())) <= LONGEST_TEMPDIR


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


def _start_worker(sockets: str) -> None:
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(sockets,), daemon=True).start()


def _end_with_parent(sockets: str) -> None:
    """End this worker when its parent is gone, even by SIGKILL: the executor's queue would keep it waiting for ever.

    sockets : the parent's folder of sockets, which a killed parent leaves behind
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(sockets, ignore_errors=True)
        os._exit(1)
