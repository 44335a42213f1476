"""A stage whose blocks do what a test asks for, in whatever process computes them; workers import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.params import RunOptions
from aligncut_cli.store.phases import Phase, Stage, run_stage, single_step
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.run import Outcome, Plan, Work

N_PAGES = 12
Hooks = Mapping[int, tuple[str, str]]
"""By block what it does first, and a path or a number for that."""


def act(kind: str, text: str) -> None:
    """Do what a hook says."""
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "die once" and not Path(text).exists():
        Path(text).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "leave":
        Path(text).touch()
    if kind == "refuse":
        raise BadInput(text)
    if kind == "wait":
        while not Path(text).exists():
            time.sleep(0.05)


class Pages:
    """Writes a folder of numbered text files, in two phases of which the second reads the first."""

    def __init__(self, work: Work, hooks: Hooks, memory: int) -> None:
        self.work, self.hooks, self.memory = work, hooks, memory
        self.word = work.settle("word", lambda: f"chosen by {os.getpid()}")

    def phases(self) -> Sequence[Phase[Any]]:
        detail = "page {}".format
        return [
            single_step("cover", self._cover),
            Phase("pages", range(N_PAGES), self._write, detail=detail, parallel=True),
            Phase("copies", range(N_PAGES), self._copy, detail=detail, parallel=True),
        ]

    def _cover(self) -> None:
        self.work.staging.mkdir(exist_ok=True)
        (self.work.staging / "cover.txt").write_text("cover")

    def _write(self, index: int, number: int, data: None) -> None:
        if number in self.hooks:
            act(*self.hooks[number])
        (self.work.staging / f"{number}.txt").write_text(f"page {number}")
        self.work.scratch.mkdir(exist_ok=True)
        (self.work.scratch / f"{number}.txt").write_text(self.word)

    def _copy(self, index: int, number: int, data: None) -> None:
        text = (self.work.staging / f"{number}.txt").read_text()
        (self.work.staging / f"copy-{number}.txt").write_text(text)

    def plan(self) -> Plan:
        return Plan(self.memory, 0)

    def finish(self) -> Outcome:
        words = {file.read_text() for file in self.work.scratch.iterdir()}
        return self.work.finish(summary={"words": len(words)})


def build(hooks: Hooks, memory: int, work: Work) -> Stage:
    return Pages(work, hooks, memory)


def make_pages(
    output: Path, scheduler: str | None = None, hooks: Hooks | None = None, *, memory: int = 0, **more: Any
) -> Outcome:
    """Run the stage; hooks are no part of its identity, so that a run without them goes on after one with."""
    options = RunOptions(output=output, scheduler=scheduler, **more)
    identity = Identity("pages", 1, "folder", {})
    return run_stage(identity, options, Console(quiet=True), inputs=[], build=partial(build, dict(hooks or {}), memory))


def read_pages(output: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted(output.glob("*.txt"))}


EXPECTED = {
    **{f"{number}.txt": f"page {number}" for number in range(N_PAGES)},
    **{f"copy-{number}.txt": f"page {number}" for number in range(N_PAGES)},
    "cover.txt": "cover",
}
