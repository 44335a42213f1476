"""Reads every chunk of a store, or every file of a folder, and holds it against its checksums."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.store.chunks import (
    CHECKSUM_BYTES,
    REPAIR,
    DamagedChunk,
    check_chunk,
    chunk_files,
    chunk_grid,
    unpack_checksums,
)
from aligncut_cli.store.files import foreign_files
from aligncut_cli.store.provenance import STORE_RECORD, read_record
from aligncut_cli.store.seal import checksum, own_files
from aligncut_cli.store.validate import check_node, read_json

MOST_NAMED = 20
BATCH = 256
Job = tuple[str, bytes | str | None]
"""A file, and the checksum that its record lists: 4 bytes of a chunk, digits of another file, None if it lists none."""


def verify_output(path: Path, console: Console) -> dict[str, int]:
    """Check every chunk or file of a finished output, several at a time.

    returns : how many there are, and their bytes
    raises  : BadInput that names those that are damaged
    """
    record = read_record(path)
    if record is None:
        raise BadInput(f"{path} is not finished, so there is nothing to check", do="Run its command again first.")
    jobs = list(_file_jobs(path, record) if record["kind"] == "folder" else _chunk_jobs(path, record))
    faults: list[str] = []
    n_bytes = 0
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        console.progress("verify", len(jobs), unit="files") as progress,
    ):
        for start in range(0, len(jobs), BATCH):
            for fault, size in pool.map(_check, jobs[start : start + BATCH]):
                n_bytes += size
                faults += [fault] if fault else []
            progress.advance(len(jobs[start : start + BATCH]))
    faults += [f"{name}: it was not made by aligncut" for name in foreign_files(path, *own_files(path, record))]
    if faults:
        more = [f"  and {len(faults) - MOST_NAMED} more"] if len(faults) > MOST_NAMED else []
        shown = [f"  {fault.removeprefix(f'{path}/')}" for fault in faults[:MOST_NAMED]]
        raise BadInput(f"{path}: {len(faults)} of {len(jobs)} are damaged:", why="\n".join(shown + more), do=REPAIR)
    return {"files": len(jobs), "bytes": n_bytes}


def _file_jobs(path: Path, record: Mapping[str, Any]) -> Iterator[Job]:
    return ((os.path.join(path, name), digits) for name, digits in record.get("files", {}).items())


def _chunk_jobs(path: Path, record: Mapping[str, Any]) -> Iterator[Job]:
    manifest = record.get("manifest", {})
    _, arrays = own_files(path, record)
    for name in sorted({*arrays, *manifest}):
        file = path / name / STORE_RECORD
        try:
            node = check_node(read_json(file), file)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BadInput(f"{path} has lost its array {name!r}", do=REPAIR) from error
        grid = chunk_grid(tuple(node["shape"]), tuple(node["chunk_grid"]["configuration"]["chunk_shape"]))
        try:
            packed = unpack_checksums(manifest[name]) if manifest else b""
        except (KeyError, ValueError) as error:
            raise BadInput(f"{path}: its record has no checksums of {name!r}", do=REPAIR) from error
        if manifest and len(packed) != CHECKSUM_BYTES * math.prod(grid):
            raise BadInput(f"{path}: array {name!r} has not the chunks that its record lists", do=REPAIR)
        for number, chunk in zip(itertools.count(0, CHECKSUM_BYTES), chunk_files(path / name, grid), strict=False):
            yield chunk, packed[number : number + CHECKSUM_BYTES] if manifest else None


def _check(job: Job) -> tuple[str, int]:
    """Return what is wrong with a file, empty where nothing is, and how many bytes were read."""
    file, listed = job
    try:
        if isinstance(listed, str):
            if os.path.islink(file) or not os.path.isfile(file):
                raise DamagedChunk("it is missing")
            found: bytes | str = checksum(Path(file))
        else:
            found = check_chunk(file)
        if listed is not None and found != listed:
            raise DamagedChunk("it is not what was written there")
        return "", os.path.getsize(file)
    except (DamagedChunk, OSError) as fault:
        return f"{file}: {fault}", 0
