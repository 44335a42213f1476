"""The marker files of finished blocks, listed once; each names the files of the output that its block wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path


class Markers:
    """Which blocks of a run are finished, in a folder with a file for each.

    folder : made with the first marker
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _names(self) -> set[str]:
        try:
            return set(os.listdir(self.folder))
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def look_again(self) -> None:
        """Forget what was listed, because another process may have worked here."""
        self.__dict__.pop("_names", None)

    def has(self, phase: str, index: int) -> bool:
        """Return whether a block is finished."""
        return f"{phase}.{index}" in self._names

    def add(self, phase: str, index: int, files: Sequence[str] = ()) -> None:
        """Declare a block finished.

        files : what it wrote to an output that is a folder, as paths from there
        """
        self.folder.mkdir(exist_ok=True)
        name = f"{phase}.{index}"
        (self.folder / name).write_text(json.dumps(list(files)) if files else "", encoding="utf-8")
        self._names.add(name)

    def promised(self) -> set[str]:
        """Return the files of the output that blocks wrote, as their markers name them."""
        found: set[str] = set()
        for name in os.listdir(self.folder) if self.folder.is_dir() else ():
            found.update(_read(self.folder / name))
        return found


def _read(file: Path) -> list[str]:
    try:
        names = json.loads(file.read_text(encoding="utf-8") or "[]")
    except (OSError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
