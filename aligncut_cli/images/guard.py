"""What every reader of a user's file shares: regular files only, every parser's error named, memory counted first."""

from __future__ import annotations

import codecs
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from aligncut_cli.errors import AlignCutError, BadInput, OutOfResources

BLANK = " \t\r\n"
"""What is cut off the ends of names in tables and lists: other spaces may be part of a name."""


@contextlib.contextmanager
def reading(path: Path, what: str, *, do: str = "") -> Iterator[None]:
    """Turn whatever a parser raises into a BadInput that names the file: parsers have no common type of error.

    what : what the file was read as, "an .npy file"
    """
    try:
        yield
    except AlignCutError:
        raise
    except MemoryError as error:
        raise OutOfResources(f"{path}: reading it takes more memory than there is.") from error
    except Exception as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadInput(
            f"{path}: cannot be read as {what}.", why=f"{type(error).__name__}: {said}" if said else "", do=do
        ) from error


def read_text(path: Path, what: str, *, do: str = "") -> str:
    """Read a file of text, in UTF-8 or, where it begins as Windows writes it, in UTF-16; line ends become newlines.

    what : what it was read as, "a list of images"
    """
    require_file(path, do=do or "Check the path.")
    require_memory(path, 20 * path.stat().st_size)
    with reading(path, f"{what} in UTF-8", do=do):
        data = path.read_bytes()
        encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def require_file(path: Path, *, do: str = "Check the path.") -> None:
    """Refuse what is no regular file: a pipe or device would be read for ever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(getattr(error, "strerror", error))
        raise BadInput(f"{path}: {reason}.", do=do) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise BadInput(f"{path}: is {kind}, not a file.", do=do)


def require_memory(path: Path, n_bytes: int) -> None:
    """Refuse a file that claims more than the machine could hold, before memory is taken.

    n_bytes : what reading it takes, by its own header
    """
    free = available_bytes()
    if n_bytes > free:
        raise OutOfResources(
            f"{path}: says of itself that it takes {n_bytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free.",
            do="Check the file, or use a machine with more memory.",
        )


def available_bytes() -> int:
    """Return the memory that this machine could still give, in bytes."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
