"""What a run is about to do, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """What became of a run: its output, `complete`, `up to date` or `planned`, and figures to show.

    said, warned : texts and tables about the result, the same whenever the command is typed again
    """

    path: Path
    state: str
    summary: Mapping[str, Any]
    plan: Mapping[str, Any] | None = None
    said: Sequence[str] = ()
    warned: Sequence[str] = ()

    @classmethod
    def of_record(cls, path: Path, state: str, record: Mapping[str, Any]) -> Outcome:
        """Return what the record of a finished output says."""
        found = {key: record.get(key, ()) for key in ("said", "warned")}
        return cls(path, state, record.get("summary", {}), **found)

    @classmethod
    def of_plan(cls, path: Path, plan: Plan, done: Mapping[str, int], differences: Any) -> Outcome:
        """Return what a dry run would do; `done` counts the finished blocks of each phase."""
        planned = {
            "output": str(path),
            "blocks": {name: {"done": done[name], "pending": n - done[name]} for name, n in plan.phases.items()},
            "bytes_to_write": plan.disk,
            "memory": plan.memory,
            "differs": differences,
            **plan.notes,
        }
        return cls(path, "planned", {}, planned)
