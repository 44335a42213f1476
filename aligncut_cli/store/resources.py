"""How much memory a stage may use, and sizes as people write them."""

from __future__ import annotations

from aligncut_cli import machine
from aligncut_cli.errors import UsageError
from aligncut_cli.params import RunOptions

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
