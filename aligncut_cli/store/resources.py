"""How much memory and disk a stage may use, and sizes as people write them."""

from __future__ import annotations

import shutil
from pathlib import Path

from aligncut_cli import machine
from aligncut_cli.console import readable_bytes
from aligncut_cli.errors import OutOfResources, UsageError
from aligncut_cli.params import RunOptions

FREE_DISK_MARGIN = 100_000_000
SIZE_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def memory_limit(options: RunOptions) -> int:
    """Return the bytes of memory a stage may use: --max-memory, or what the machine has free and the job is allowed."""
    if options.max_memory is not None:
        return parse_size(options.max_memory)
    return machine.memory_limit()


def parse_size(text: str) -> int:
    """Read a size such as 8G, 500M or 1.5GB as bytes."""
    cleaned = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = cleaned[-1:] if cleaned[-1:] in SIZE_UNITS else ""
    try:
        value = float(cleaned.removesuffix(unit) if unit else cleaned)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UsageError(f"{text!r} is not a size", do="Write it as 8G or 500M.")
    return int(value * SIZE_UNITS[unit])


def require_memory(stage: str, needed: int, limit: int) -> None:
    """Refuse a stage that needs more bytes of memory than may be used, with both numbers."""
    if needed > limit:
        raise OutOfResources(
            f"{stage} needs about {readable_bytes(needed)} of memory, and {readable_bytes(limit)} may be used",
            do="Raise --max-memory, or ask for less: a smaller --n-sample or --batch-size.",
        )


def require_disk(output: Path, place: Path, needed: float) -> None:
    """Refuse an output that needs more bytes than are free where it is made, with both numbers.

    place : of work, which need not exist
    """
    folder = next(path for path in (place, *place.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if needed + FREE_DISK_MARGIN > free:
        raise OutOfResources(
            f"{output} needs about {readable_bytes(needed)} of disk, and "
            f"{readable_bytes(free)} are free on {place.absolute().parent}",
            do="Free some space, or give a path on another disk with -o.",
        )
