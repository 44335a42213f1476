"""The run protocol of every stage: begin, pending blocks, mark, finish; nothing is lost and nothing done twice.

`store/phases.py` drives a stage through it. Work goes into `OUT.wip`, which holds the record, a lock, one marker
file per finished block, and the unfinished output; the output appears under its own name only when it is complete.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import platform
import shutil
import socket
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from aligncut_cli.console import readable_bytes
from aligncut_cli.errors import AlignCutError, OutOfResources, OutputInTheWay, Stopped, UsageError
from aligncut_cli.params import RunOptions
from aligncut_cli.store.provenance import FOLDER_RECORD, KEY, Identity, installed_software, read_record

FREE_DISK_MARGIN = 100_000_000
SIZE_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Plan:
    """What a stage is about to do.

    memory : bytes, projected peak
    disk   : bytes to write
    notes  : further lines for a dry run
    phases : blocks per phase, in order; the driver fills them in
    """

    memory: int
    disk: int
    notes: Mapping[str, Any] = field(default_factory=dict)
    phases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a run: its output, `complete`, `up to date` or `planned`, and figures to show."""

    path: Path
    state: str
    summary: Mapping[str, Any]
    plan: Mapping[str, Any] | None = None


class Work:
    """One stage's work on one output."""

    def __init__(self, identity: Identity, options: RunOptions) -> None:
        self.identity, self.options = identity, options
        self.output = options.output
        self.wip = wip_path(options.output)
        self.staging = self.wip / "store"
        self.scratch = self.wip / "scratch"
        self.complete = False
        self.differences: list[str] = []
        self._plan: Plan | None = None
        self._lock: int | None = None
        self._started = time.time()

    def __enter__(self) -> Work:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt | Stopped):
            error.add_note(self.progress_line())
        self._unlock()

    # beginning

    def _look(self) -> None:
        """Compare with what stands at the output, and lock the place of work."""
        if self.output.exists() and not self._replaceable():
            return
        if self.options.dry_run:
            self._compare_wip()
            return
        self._lock_wip()
        if self.output.exists() and not self._replaceable():  # another process has finished it since we looked
            shutil.rmtree(self.wip)
            return
        self._compare_wip()
        if self.differences and not self.options.overwrite:
            self._unlock()
            raise self._in_the_way(self.wip, "holds unfinished work with other parameters")
        if self.differences or not (self.wip / "record.json").exists():
            for entry in self.wip.iterdir():
                if entry.name != "lock":
                    _remove(entry)
            self.differences = []
            write_json(self.wip / "record.json", self.identity.record() | {"created": now()})
        for fragment in self.wip.rglob("*.partial"):  # what a killed process was in the middle of writing
            fragment.unlink()

    def _replaceable(self) -> bool:
        """Return whether the output may be made anew; sets `complete` where it is up to date."""
        record = read_record(self.output)
        if record is None:
            if self.output.is_dir() and not any(self.output.iterdir()):
                return True
            raise OutputInTheWay(
                f"{self.output} exists and was not made by aligncut",
                do="It is left untouched, even with --overwrite. Give another path with -o.",
            )
        if record.get("digest") == self.identity.digest and not self.options.overwrite:
            self.complete = True
            self._record = record
            return False
        self.differences = self.identity.differences(record)
        if not self.options.overwrite and not self.options.dry_run:
            raise self._in_the_way(self.output, "was made with other parameters")
        return True

    def _in_the_way(self, path: Path, what: str) -> OutputInTheWay:
        return OutputInTheWay(
            f"{path} {what}:\n" + "\n".join(f"  {line}" for line in self.differences),
            do="Add --overwrite to replace it, or give another path with -o.",
        )

    def _compare_wip(self) -> None:
        try:
            record = json.loads((self.wip / "record.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return
        except ValueError:
            record = {}
        self.differences = [] if record.get("digest") == self.identity.digest else self.identity.differences(record)

    def _lock_wip(self) -> None:
        """Hold an advisory lock that the system releases when this process ends, however it ends."""
        while True:
            self.wip.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(self.wip / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
                os.close(handle)
                raise OutputInTheWay(
                    f"{self.output} is being written by another process ({holder or 'unknown'})",
                    do="Wait for it, or give another path with -o.",
                ) from None
            try:
                same = os.path.samestat(os.fstat(handle), os.stat(self.wip / "lock"))
            except FileNotFoundError:
                same = False
            if same:
                break
            os.close(handle)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}, since {now()}\n".encode(), 0)
        self._lock = handle

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # planning

    def accept(self, plan: Plan) -> bool:
        """Refuse what cannot fit in memory or on the disk; return False where this is only a dry run."""
        self._plan = plan
        if self.options.dry_run:
            return False
        limit = memory_limit(self.options)
        if plan.memory > limit:
            raise OutOfResources(
                f"{self.identity.stage} needs about {readable_bytes(plan.memory)} of memory, "
                f"and {readable_bytes(limit)} may be used",
                do="Raise --max-memory, or ask for less: a smaller --n-sample or --batch-size.",
            )
        share = self._share_left(plan)
        free = shutil.disk_usage(self.wip).free
        if plan.disk * share + FREE_DISK_MARGIN > free:
            raise OutOfResources(
                f"{self.output} needs about {readable_bytes(plan.disk * share)} of disk, and "
                f"{readable_bytes(free)} are free on {self.wip.resolve().parent}",
                do="Free some space, or give a path on another disk with -o.",
            )
        return True

    def _share_left(self, plan: Plan) -> float:
        total = sum(plan.phases.values())
        left = sum(1 for phase, count in plan.phases.items() for i in range(count) if not self.done(phase, i))
        return left / total if total else 1.0

    # blocks

    def done(self, phase: str, index: int = 0) -> bool:
        """Return whether a block's marker is there."""
        return (self.wip / "done" / f"{phase}.{index}").exists()

    def pending(self, phase: str) -> Iterator[int]:
        """Give the indices of the blocks that have no marker yet."""
        count = 1 if self._plan is None else self._plan.phases[phase]
        return (index for index in range(count) if not self.done(phase, index))

    def count_done(self, phase: str) -> int:
        """Return how many blocks of a phase have their marker."""
        count = 1 if self._plan is None else self._plan.phases[phase]
        return count - len(list(self.pending(phase)))

    def mark(self, phase: str, index: int = 0) -> None:
        """Declare a block finished; call it only when the block's data has been handed to the system."""
        folder = self.wip / "done"
        folder.mkdir(exist_ok=True)
        (folder / f"{phase}.{index}").touch()

    def progress_line(self) -> str:
        """Say how far an interrupted run has got."""
        if self._plan is None:
            return "nothing had been written yet"
        parts = [f"{self.count_done(phase):,} of {count:,} {phase}" for phase, count in self._plan.phases.items()]
        return "done so far: " + ", ".join(parts)

    # ending

    def finish(
        self, *, models: list[str] | None = None, summary: Mapping[str, Any] | None = None, **more: Any
    ) -> Outcome:
        """Write the provenance, give the output its name, and return the outcome.

        models  : names in order, for stores with node axes
        summary : figures that a rerun shows again without computing
        more    : further keys of the record
        """
        missing = [phase for phase in (self._plan.phases if self._plan else {}) if list(self.pending(phase))]
        if missing:
            raise AlignCutError(f"internal error: {self.identity.stage} finished with blocks left in {missing}")
        previous = json.loads((self.wip / "record.json").read_text(encoding="utf-8"))
        record = self.identity.record() | {
            "models": models or [],
            "created": previous.get("created", now()),
            "software": installed_software(),
            "runtime": self._runtime(),
            "summary": dict(summary or {}),
            **more,
        }
        if self.identity.kind == "folder":
            write_json(self.staging / FOLDER_RECORD, {KEY: record})
        else:
            self._finish_store(record)
        if self.output.exists():
            _remove(self.wip / "replaced")
            self.output.rename(self.wip / "replaced")
        self.staging.rename(self.output)
        shutil.rmtree(self.wip, ignore_errors=True)
        self._record = record
        return Outcome(self.output, "complete", record["summary"])

    def _finish_store(self, record: dict[str, Any]) -> None:
        import zarr

        zarr.open_group(self.staging, mode="r+").attrs[KEY] = record
        with warnings.catch_warnings():
            # zarr warns that consolidated metadata is not yet in the v3 specification; xarray and zarr read it
            warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
            zarr.consolidate_metadata(str(self.staging))

    def _runtime(self) -> dict[str, Any]:
        options = {key: value for key, value in asdict(self.options).items() if key != "output"}
        return {
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "seconds": round(time.time() - self._started, 3),
            "finished": now(),
            **{key: options[key] for key in ("device", "batch_size", "workers", "max_memory")},
        }

    def outcome(self) -> Outcome:
        """Return what to say where nothing was computed: up to date, or the plan of a dry run."""
        if self.complete:
            return Outcome(self.output, "up to date", self._record.get("summary", {}))
        plan = self._plan or Plan(0, 0)
        planned = {
            "output": str(self.output),
            "blocks": {
                phase: {"done": self.count_done(phase), "pending": count - self.count_done(phase)}
                for phase, count in plan.phases.items()
            },
            "bytes_to_write": plan.disk,
            "memory": plan.memory,
            "differs": self.differences,
            **plan.notes,
        }
        return Outcome(self.output, "planned", {}, planned)


def begin(identity: Identity, options: RunOptions, *, inputs: list[Path] | None = None) -> Work:
    """Open the place of work for one output; see the module's text for what a stage does with it.

    inputs : paths that the output must not be, nor lie in
    raises : OutputInTheWay where something else stands there or another process writes it
    """
    target = options.output.resolve()
    for path in inputs or []:
        if target == path.resolve() or path.resolve() in target.parents:
            raise UsageError(f"the output {options.output} is the input {path} or lies in it", do="Give another -o.")
    work = Work(identity, options)
    try:
        work._look()
    except BaseException:
        work._unlock()
        raise
    return work


def wip_path(output: Path) -> Path:
    """Return where unfinished work on an output lives."""
    return output.with_name(output.name + ".wip")


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file so that it is either whole or absent."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1, default=str), encoding="utf-8")
    partial.replace(path)


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
