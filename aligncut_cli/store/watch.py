"""Whether the files that a stage reads are still those of its beginning, by size, time and number."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from aligncut_cli.errors import BadInput
from aligncut_cli.store.provenance import InputRecord

Look = list[tuple[int, ...] | None]


class InputWatch:
    """The inputs of one run, looked at when it began."""

    def __init__(self, inputs: Sequence[InputRecord]) -> None:
        self._inputs = inputs
        self._stores = [file for item in inputs if len(item.files) == 1 for file in item.files]
        self._all = [file for item in inputs for file in item.files]
        self._stores_before, self._all_before = _look(self._stores), _look(self._all)

    def require_same(self, *, every_file: bool) -> None:
        """Refuse an input that was replaced or changed.

        every_file : look at the photos, masks and responses too, not only at the records of stores
        raises     : BadInput
        """
        now, before = (self._all, self._all_before) if every_file else (self._stores, self._stores_before)
        if _look(now) != before:
            raise BadInput(
                f"an input was replaced or changed while it was read: {', '.join(item.path for item in self._inputs)}",
                do="Type the same command again; it begins anew if the input is another now.",
            )


def _look(files: Iterable[Path]) -> Look:
    found: Look = []
    for file in files:
        try:
            status = os.stat(file)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_size, status.st_mtime_ns, status.st_ino))
    return found
