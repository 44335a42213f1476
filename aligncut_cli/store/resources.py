"""How much memory a stage may use, and sizes as people write them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from aligncut_cli.errors import UsageError
from aligncut_cli.params import RunOptions

SIZE_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def memory_limit(options: RunOptions) -> int:
    """Return the bytes of memory a stage may use: --max-memory, or what the machine has free."""
    if options.max_memory is not None:
        return parse_size(options.max_memory)
    limits = [available_memory()]
    with contextlib.suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits)


def available_memory() -> int:
    """Return the bytes of memory that can be taken without swapping."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


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
