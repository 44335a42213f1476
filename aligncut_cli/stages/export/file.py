"""The run protocol for an output that is one file, with its ids and its record beside it.

`FILE` is only there when it is whole, and then `FILE.ids.csv` and `FILE.aligncut.json` are its own: what is replaced
goes first, then these two take their names, and the file is last. Work goes into `FILE.wip`, as everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aligncut_cli.errors import BadInput, OutputInTheWay
from aligncut_cli.store.files import remove, sync, write_json
from aligncut_cli.store.provenance import KEY
from aligncut_cli.store.run import Work
from aligncut_cli.store.seal import checksum
from aligncut_cli.store.validate import check_record, read_json

IDS, RECORD = ".ids.csv", ".aligncut.json"


def beside(output: Path, suffix: str) -> Path:
    """Return where a file's ids (IDS) or its record (RECORD) lie."""
    return output.with_name(output.name + suffix)


def read_file_record(output: Path) -> dict[str, Any] | None:
    """Return the record of an exported file, None where there is none that can be used."""
    where = beside(output, RECORD)
    try:
        record = check_record(read_json(where).get(KEY), where)
    except (BadInput, OSError):
        return None
    return record if isinstance(record.get("files"), dict) and isinstance(record.get("stat"), dict) else None


def _stat(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _is_as_listed(file: Path, record: Mapping[str, Any]) -> bool:
    """Return whether a file is the one that was written: its size and time, or else its content, are the same."""
    listed = record["stat"].get(file.name)
    if not isinstance(listed, list) or file.is_symlink() or not file.is_file():
        return False
    found = _stat(file)
    return found == listed or (found[:1] == listed[:1] and checksum(file) == record["files"].get(file.name))


class FileWork(Work):
    """One stage's work on one file."""

    def __enter__(self) -> FileWork:
        self._look()
        if not self.complete and not os.path.lexists(self.output):
            self._require_free()
        return self

    @property
    def _names(self) -> tuple[str, str]:
        return self.output.name, beside(self.output, IDS).name

    def _own(self, record: Mapping[str, Any] | None) -> list[bool]:
        """Return of the file and of its ids whether they are as a record lists them."""
        return [record is not None and _is_as_listed(self.output.with_name(name), record) for name in self._names]

    def _require_free(self) -> None:
        """Refuse ids beside a missing file, unless they are an earlier export's."""
        ids = beside(self.output, IDS)
        if os.path.lexists(ids) and not self._own(read_file_record(self.output))[1]:
            raise OutputInTheWay(
                f"{ids} exists and was not made by aligncut", do="Move it away, or give another path with -o."
            )

    def _is_replaceable(self) -> bool:
        record = read_file_record(self.output)
        if record is None or not all(self._own(record)):
            raise OutputInTheWay(
                f"{self.output} exists, and it or its ids were not made by aligncut or were changed since",
                do="It is left untouched, even with --overwrite. Move it away, or give another path with -o.",
            )
        if record["digest"] == self.identity.digest and not self.options.overwrite:
            self.complete, self._record = True, record
            return False
        self.differences = self.identity.differences(record)
        if not self.options.overwrite and not self.options.dry_run:
            raise self._in_the_way(self.output, "was made with other parameters")
        return True

    def _seal(self, record: dict[str, Any]) -> None:
        lost = [name for name in self._names if not (self.staging / name).is_file()]
        if lost:
            raise BadInput(f"the unfinished output has lost {lost[0]}", do="Type the same command again.")
        record["files"] = {name: checksum(self.staging / name) for name in self._names}
        record["stat"] = {name: _stat(self.staging / name) for name in self._names}
        write_json(self.staging / beside(self.output, RECORD).name, {KEY: record})

    def _take_name(self) -> None:
        if os.path.lexists(self.output):
            self._is_replaceable()
        else:
            self._require_free()
        self.place.void()  # from here on the place of work lacks what has its name already
        for path in (self.output, beside(self.output, IDS)):
            remove(path)
        for path in (beside(self.output, RECORD), beside(self.output, IDS), self.output):
            os.replace(self.staging / path.name, path)
        sync(self.output.absolute().parent)
