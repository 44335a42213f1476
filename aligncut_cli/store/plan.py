"""What a stage is about to do, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Plan:
    """What a stage is about to do.

    memory : bytes, projected peak
    disk   : bytes to write
    notes  : further lines for a dry run
    phases : blocks per phase, in order; the driver fills them in
    worker : bytes, projected peak of a process that computes blocks of parallel phases only; None for `memory`
    """

    memory: int
    disk: int
    notes: Mapping[str, Any] = field(default_factory=dict)
    phases: Mapping[str, int] = field(default_factory=dict)
    worker: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its output, `complete`, `up to date` or `planned`, and figures to show."""

    path: Path
    state: str
    summary: Mapping[str, Any]
    plan: Mapping[str, Any] | None = None
