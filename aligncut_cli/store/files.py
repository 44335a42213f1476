"""Files of ours on the disk: written whole, flushed before they are relied on, told from other people's, removed."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CHUNK = re.compile(r"c(/\d+)*")
FRAGMENT = ".partial"
"""How the name of a file ends that is being written."""
SYNC_THREADS = 4
_AT_FDCWD, _EXCHANGE = -100, 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def walk_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Give all that lies in a folder and is no folder itself, in no order; links are given, not followed."""
    waiting = [os.fspath(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry


def list_files(folder: Path) -> dict[str, bool]:
    """Return all that lies in a folder by its path from there, and whether it is an ordinary file."""
    start = len(os.fspath(folder)) + 1
    return {entry.path[start:]: entry.is_file(follow_symlinks=False) for entry in walk_files(folder)}


def foreign_files(folder: Path, names: Collection[str], arrays: Iterable[str] = ()) -> list[str]:
    """Name what lies in an output and is not of those who made it, sorted: other files, and every link.

    names  : its files, as paths from there
    arrays : paths of its Zarr arrays, whose chunks are its own
    """
    known, owners = set(names), set(arrays)

    def is_own(name: str) -> bool:
        array, _, chunk = name.rpartition("/c/") if "/c/" in name else name.rpartition("/")
        chunk = f"c/{chunk}" if "/c/" in name else chunk
        return name in known or (array in owners and CHUNK.fullmatch(chunk) is not None)

    return sorted(name for name, ordinary in list_files(folder).items() if not (ordinary and is_own(name)))


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; links are never followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fragment_of(path: Path) -> Path:
    """Return where a file is written before it gets its name; no two processes write the same."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{FRAGMENT}")


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file so that it is either whole or absent, also after a power cut."""
    partial = fragment_of(path)
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, default=str)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def sync(path: Path | str) -> None:
    """Wait until a file or folder is on the disk; what has gone meanwhile needs no waiting."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has nothing to wait for
            raise
    finally:
        os.close(handle)


def sync_all(paths: Iterable[Path | str]) -> None:
    """Wait until these are on the disk, several at a time, so that the disk can order them."""
    wanted = list(paths)
    if len(wanted) < 3:
        for path in wanted:
            sync(path)
    else:
        with ThreadPoolExecutor(SYNC_THREADS) as pool:
            list(pool.map(sync, wanted))


def changed_since(folders: Iterable[Path], moment: float, *, chunks: bool) -> list[str]:
    """Return the finished ordinary files in some folders that were written at or after a moment.

    moment : seconds since 1970
    chunks : whether to look at chunks of Zarr arrays too
    """
    found = []
    waiting = [os.fspath(folder) for folder in folders if folder.is_dir()]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    if chunks or entry.name != "c":
                        waiting.append(entry.path)
                elif stat.S_ISREG(status.st_mode) and status.st_mtime >= moment and not entry.name.endswith(FRAGMENT):
                    found.append(entry.path)
    return found


def exchange(new: Path, old: Path) -> bool:
    """Let two paths swap what stands there in one step; return False where the system cannot do that."""
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), os.fspath(old))
