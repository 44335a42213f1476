"""What runs in a worker: it says what it is, attaches to a job, computes blocks, and puts them on the disk.

A worker owns neither lock nor record nor markers, and chooses nothing: all of that is the first process's.
"""

from __future__ import annotations

import gc
import os
import platform
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligncut_cli import machine
from aligncut_cli.console import Console
from aligncut_cli.errors import AlignCutError
from aligncut_cli.store.files import changed_since, sync_all
from aligncut_cli.store.job import Superseded, read_job
from aligncut_cli.store.phase import Phase, compute_blocks
from aligncut_cli.store.provenance import installed_software
from aligncut_cli.store.run import CLOCK_SLACK, Work


@dataclass(frozen=True)
class Portrait:
    """What a worker is and sees.

    software  : versions of what computes, Python's own too
    device    : whether it has the kind of device that was asked for
    processor : what computes, as far as results depend on it
    memory    : bytes that may be used on its host
    hidden    : files among those named that it does not see
    """

    host: str
    process: int
    software: dict[str, str]
    device: bool
    processor: str
    memory: int
    hidden: list[str]

    @property
    def name(self) -> str:
        """Return host and process."""
        return f"{self.host}:{self.process}"


def portray(files: Sequence[str], device: str) -> Portrait:
    """Say what this process is.

    files  : that a worker must see
    device : kind of device it must have
    """
    return Portrait(
        host=socket.gethostname(),
        process=os.getpid(),
        software={**installed_software(), "python": platform.python_version()},
        device=machine.has_device(device),
        processor=machine.processor(device),
        memory=machine.memory_limit(),
        hidden=[file for file in files if not os.path.exists(file)],
    )


@dataclass
class Report:
    """What became of a batch: the blocks on the disk, the seconds of computing, and what went wrong with the next."""

    worker: str
    done: list[int] = field(default_factory=list)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    error: AlignCutError | None = None


class _WorkerConsole(Console):
    """Keeps warnings for the first process, which alone talks to the user."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Keep a warning."""
        self.warnings.append(text)


class _Attached:
    """One job in this process: its stage, made once."""

    def __init__(self, file: Path, digest: str) -> None:
        self.file, self.digest = file, digest
        self.console = _WorkerConsole()
        self.job = read_job(file, digest)
        self._seen = file.stat().st_mtime_ns
        machine.pin_threads(self.job.threads)
        self.work = Work(self.job.identity, self.job.options, self.console, settled=self.job.settled)
        self.stage = self.job.build(self.work)
        self.phases: dict[str, Phase[Any]] = {phase.name: phase for phase in self.stage.phases()}
        self.console.warnings.clear()  # the first process has said them

    def require_current(self) -> None:
        """Refuse to write for a run that has ended."""
        try:
            same = self.file.stat().st_mtime_ns == self._seen
        except OSError:
            same = False
        if not same:
            raise Superseded(f"{self.file} is gone or another run's")


_one_at_a_time = threading.Lock()
_attached: list[_Attached] = []


def compute_batch(file: str, digest: str, phase: str, indices: Sequence[int]) -> Report:
    """Compute blocks of a phase and put them on the disk; a stage keeps state, so one batch runs at a time.

    file, digest : of the job
    returns      : what is done; errors that a user can act on are part of it, others are raised
    """
    with _one_at_a_time:
        report = Report(f"{socket.gethostname()}:{os.getpid()}")
        try:
            attached = _attach(Path(file), digest)
            machine.pin_threads(attached.job.threads)
            _compute(attached, attached.phases[phase], indices, report)
        except AlignCutError as error:
            report.error = error
        return report


def release(digest: str) -> None:
    """Let go of a job that has ended, unless it is computed at this moment."""
    if _one_at_a_time.acquire(blocking=False):
        try:
            if _attached and _attached[0].digest == digest:
                _attached.clear()
                gc.collect()
        finally:
            _one_at_a_time.release()


def _attach(file: Path, digest: str) -> _Attached:
    if not _attached or _attached[0].digest != digest:
        _attached.clear()
        gc.collect()  # a stage holds arrays, and the next one needs the room
        _attached.append(_Attached(file, digest))
    return _attached[0]


def _compute(attached: _Attached, phase: Phase[Any], indices: Sequence[int], report: Report) -> None:
    moment, started = time.time(), time.perf_counter()
    try:
        compute_blocks(phase, indices, done=report.done.append, before=attached.require_current)
    finally:
        _flush(attached.work, moment)
        report.seconds = time.perf_counter() - started
        report.warnings = list(dict.fromkeys(attached.console.warnings))
        attached.console.warnings.clear()


def _flush(work: Work, moment: float) -> None:
    """Wait until what was written since a moment is on the disk, and the folders that name it."""
    folders = [folder for folder in (work.staging, work.scratch) if folder.is_dir()]
    # Writer has waited for its own chunks; a folder has no chunks, and its stage writes files of any kind.
    fresh = changed_since(folders, moment - CLOCK_SLACK, chunks=work.identity.kind == "folder")
    sync_all(fresh)
    sync_all({os.path.dirname(path) for path in fresh})
