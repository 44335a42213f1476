"""The one place that reads a folder of a user's: every file below it, except hidden ones and our own outputs."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from aligncut_cli.errors import BadInput

OUR_RECORDS = frozenset(("aligncut.json", "zarr.json"))
"""Files that every finished output of ours carries."""
OUR_WORK = (".wip", "record.json")
"""The end of the name of a place of work, and the record in it."""

OnFault = Callable[[Path, str], None]


def walk_files(folder: Path, *, on_fault: OnFault | None = None) -> list[Path]:
    """List the files of a folder and of those in it, sorted; links are followed, circles end.

    Hidden files and folders are left out, and folders below it that carry a record of ours: what `render` or
    `extract` wrote into a folder of photos is no photo.

    on_fault : called with what cannot be looked into and why; otherwise that is refused
    returns  : also links that lead nowhere, pipes and devices: whoever wants them must say so (`is_regular`)
    """

    def say(error: OSError) -> None:
        reason = error.strerror or str(error)
        if on_fault is None:
            raise BadInput(f"cannot look into {error.filename}", why=reason) from error
        on_fault(Path(error.filename), reason)

    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=say):
        status = os.stat(parent)
        known = (status.st_dev, status.st_ino) in seen  # a link back to a folder that was visited
        if known or (Path(parent) != folder and is_ours(parent, names)):
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    return found


def is_ours(folder: str, names: Collection[str]) -> bool:
    """Return whether a folder with files of these names is an output of ours, finished or in progress."""
    return not OUR_RECORDS.isdisjoint(names) or (folder.endswith(OUR_WORK[0]) and OUR_WORK[1] in names)


def is_regular(path: Path) -> bool:
    """Return whether a path leads to a regular file, or nowhere, which is a fault that whoever reads it will name."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def name_some(paths: Sequence[Path], *, most: int = 3) -> str:
    """Return the names of the first files, and how many more there are."""
    shown = ", ".join(path.name for path in paths[:most])
    return shown + (f" and {len(paths) - most:,} more" if len(paths) > most else "")
