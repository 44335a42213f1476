"""The run protocol of every stage: begin, accept, pending blocks, mark, finish; nothing is lost and nothing done twice.

`store/phases.py` drives a stage through it. `begin` only looks; `accept` claims the place of work once inputs,
parameters, memory and disk have been checked. Work goes into `OUT.wip` (see `store/place.py`), with one marker file per
finished block, written after the block's data is on the disk; the output gets its name when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from aligncut_cli.console import Console
from aligncut_cli.errors import AlignCutError, BadInput, OutputInTheWay, Stopped, UsageError
from aligncut_cli.params import RunOptions
from aligncut_cli.store.apart import keep_apart
from aligncut_cli.store.files import changed_since, exchange, foreign_files, remove, sync, sync_all, walk_files
from aligncut_cli.store.files import write_json as write_json
from aligncut_cli.store.markers import Markers
from aligncut_cli.store.outcome import Outcome as Outcome
from aligncut_cli.store.outcome import Plan as Plan
from aligncut_cli.store.place import Place
from aligncut_cli.store.place import wip_path as wip_path
from aligncut_cli.store.provenance import Identity, installed_software, now, read_record
from aligncut_cli.store.resources import memory_limit as memory_limit
from aligncut_cli.store.resources import parse_size as parse_size
from aligncut_cli.store.resources import require_disk, require_memory
from aligncut_cli.store.seal import own_files, seal_folder, seal_store
from aligncut_cli.store.watch import InputWatch

T = TypeVar("T")

CLOCK_SLACK = 1.0
"""Seconds by which a file system's clock may differ from ours."""


class Work:
    """One stage's work on one output.

    settled : what its first process has chosen for all of them, by name
    goes_on : whether unfinished work of this very run is there
    is_mine : whether this process owns lock, record and markers; a worker computes blocks for the one that does
    """

    def __init__(
        self,
        identity: Identity,
        options: RunOptions,
        console: Console | None = None,
        *,
        settled: Mapping[str, Any] | None = None,
    ) -> None:
        self.identity, self.options = identity, options
        self.console = Console(quiet=True) if console is None else console
        self.is_mine, self.settled = settled is None, dict(settled or {})
        self.output = options.output
        self.place = Place(options.output)
        self.wip, self.staging, self.scratch = self.place.path, self.place.staging, self.place.scratch
        self.markers = Markers(self.place.markers)
        self.complete = self.goes_on = False
        self.differences: list[str] = []
        self._claimed = False
        self._plan: Plan | None = None
        self._started = time.time()
        self._synced = 0.0
        self._watch = InputWatch(identity.inputs)

    def __enter__(self) -> Work:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt | Stopped):
            error.add_note(self.progress_line())
        if isinstance(error, AlignCutError) and self._claimed and not self.place.has_finished_blocks():
            self.place.clear()
        self.place.unlock()

    def settle(self, name: str, choose: Callable[[], T]) -> T:
        """Return a choice that all processes of this run share: the first makes it, workers take it over."""
        if name not in self.settled:
            if not self.is_mine:
                raise AlignCutError(f"internal error: a worker was to choose {name!r} by itself")
            self.settled[name] = choose()
        chosen: T = self.settled[name]
        return chosen

    @property
    def spread(self) -> bool:
        """Return whether workers compute too, so that a pass is worth cutting up."""
        return self.settle("spread", lambda: self.options.scheduler is not None)

    # beginning

    def _look(self) -> None:
        """Compare with what stands at the output and in the place of work; writes nothing new."""
        if not self.options.dry_run:
            self.place.recover()
        if os.path.lexists(self.output) and not self._is_replaceable():
            if not self.options.dry_run:
                self._clear_stale()
            return
        if not self.place.exists():
            return
        self.place.require_ours()
        holder = None if self.options.dry_run else self.place.holder()
        if holder is not None:
            raise self.place.busy(holder)
        self._compare_place()

    def _is_replaceable(self) -> bool:
        """Return whether the output may be made anew; sets `complete` where it is up to date."""
        try:
            record = read_record(self.output)
        except BadInput as error:
            raise OutputInTheWay(
                f"{self.output} exists, and what it is cannot be told: {error.what}",
                do="It is left untouched, even with --overwrite. Remove it, or give another path with -o.",
            ) from error
        if record is not None and record["digest"] == self.identity.digest and not self.options.overwrite:
            self.complete = True
            self._record = record
            return False
        if self.output.is_symlink():
            raise OutputInTheWay(f"{self.output} is a link", do="Give the path that it leads to with -o.")
        if record is None:
            if self.output.is_dir() and not any(self.output.iterdir()):
                return True
            raise OutputInTheWay(
                f"{self.output} exists and was not made by aligncut",
                do="It is left untouched, even with --overwrite. Give another path with -o.",
            )
        self.differences = self.identity.differences(record)
        if not self.options.overwrite and not self.options.dry_run:
            raise self._in_the_way(self.output, "was made with other parameters")
        self._require_own_files(record)
        return True

    def _require_own_files(self, record: Mapping[str, Any]) -> None:
        """Refuse to replace an output in which there is anything that its record does not list."""
        foreign = foreign_files(self.output, *own_files(self.output, record))
        if foreign:
            more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
            raise OutputInTheWay(
                f"{self.output} also holds what aligncut did not make, or made before it listed its files: "
                f"{', '.join(foreign[:3])}{more}",
                do="It is left untouched, even with --overwrite. Move it out, or give another path with -o.",
            )

    def _in_the_way(self, path: Path, what: str) -> OutputInTheWay:
        return OutputInTheWay(
            f"{path} {what}:\n" + "\n".join(f"  {line}" for line in self.differences),
            do="Add --overwrite to replace it, or give another path with -o.",
        )

    def _compare_place(self) -> None:
        """Find out whether the work that lies there is this run's, or in its way."""
        self.markers.look_again()
        self.goes_on = self.place.is_resumable(self.identity.digest)
        record = self.place.record()
        if self.goes_on or record is None or not self.place.has_finished_blocks():
            return
        if record["digest"] != self.identity.digest:
            self.differences = self.identity.differences(record)
            if not self.options.overwrite and not self.options.dry_run:
                raise self._in_the_way(self.wip, "holds unfinished work with other parameters")

    def _clear_stale(self) -> None:
        """Remove what a run that was killed at its very end left beside this complete output."""
        if not self.place.exists():
            return
        record = self.place.record()
        if record is not None and record["digest"] != self.identity.digest and self.place.has_finished_blocks():
            return  # another run's, which can still go on
        with contextlib.suppress(OutputInTheWay, OSError):
            self.place.require_ours()
            if self.place.holder() is None:
                self.place.lock()
                self.place.clear()
        self.place.unlock()

    # claiming

    def accept(self, plan: Plan) -> bool:
        """Claim the place of work for what fits in memory and on the disk.

        returns : False where there is nothing to compute: a dry run, or another process has just finished it
        raises  : OutOfResources with both numbers; OutputInTheWay
        """
        self._plan = plan
        if self.options.dry_run:
            return False
        require_memory(self.identity.stage, plan.memory, memory_limit(self.options))
        require_disk(self.output, self.wip, plan.disk * self._share_left(plan))
        return self._claim()

    def _claim(self) -> bool:
        """Lock the place of work and take it over, or begin it; return False where the output is there by now."""
        if self.place.exists():
            self.place.require_ours()
        self.place.lock()
        if os.path.lexists(self.output) and not self._is_replaceable():  # another process has finished it
            self.place.clear()
            self.place.unlock()
            return False
        self._compare_place()
        if self.goes_on:
            self.place.drop_fragments(every=False)
        else:
            self.place.begin(self.identity.record() | {"created": now()})
            self.markers.look_again()
        self.goes_on = self._claimed = True
        return True

    def _share_left(self, plan: Plan) -> float:
        total = sum(plan.phases.values())
        left = sum(1 for phase, count in plan.phases.items() for i in range(count) if not self.done(phase, i))
        return left / total if total else 1.0

    # blocks

    def done(self, phase: str, index: int = 0) -> bool:
        """Return whether a block is finished: it has a marker, and what that speaks of is there."""
        return self.goes_on and self.markers.has(phase, index)

    def pending(self, phase: str) -> Iterator[int]:
        """Give the indices of the blocks that have no marker yet."""
        count = 1 if self._plan is None else self._plan.phases[phase]
        return (index for index in range(count) if not self.done(phase, index))

    def count_done(self, phase: str) -> int:
        """Return how many blocks of a phase have their marker."""
        count = 1 if self._plan is None else self._plan.phases[phase]
        return count - len(list(self.pending(phase)))

    def mark(self, phase: str, index: int = 0) -> None:
        """Declare a block finished, once its data is on the disk and its inputs are still those of the beginning.

        raises : BadInput where an input was replaced meanwhile; the block is then computed again
        """
        self._watch.require_same(every_file=False)
        moment = time.time()
        # Writer has waited for its own chunks; a phase of one block may write others, and folders have none
        every = self.identity.kind == "folder" or self._plan is None or self._plan.phases.get(phase) == 1
        fresh = changed_since(self._written, self._synced - CLOCK_SLACK, chunks=every)
        sync_all(path for path in fresh if not path.endswith("/lock"))
        self._synced = moment
        self.place.beat()
        self.markers.add(phase, index, self._promise(fresh))

    def mark_for(self, phase: str, indices: Sequence[int]) -> None:
        """Declare blocks finished that a worker has computed and put on the disk."""
        self._watch.require_same(every_file=False)
        fresh: list[str] = []
        if self.identity.kind == "folder":
            moment = time.time()
            fresh = changed_since([self.staging], self._synced - CLOCK_SLACK, chunks=True)
            self._synced = moment
        for index in indices:
            self.markers.add(phase, index, self._promise(fresh))
            fresh = []

    @property
    def _written(self) -> list[Path]:
        return [path for path in self.wip.iterdir() if path.is_dir() and path != self.place.markers]

    def _promise(self, fresh: Sequence[str]) -> list[str]:
        """Return which of some files belong to an output that is a folder, as paths from there."""
        start = os.fspath(self.staging) + os.sep
        ours = self.identity.kind == "folder"
        return sorted(path.removeprefix(start) for path in fresh if ours and path.startswith(start))

    def progress_line(self) -> str:
        """Say how far an interrupted run has got."""
        if self._plan is None:
            return "nothing had been written yet"
        parts = [f"{self.count_done(phase):,} of {count:,} {phase}" for phase, count in self._plan.phases.items()]
        return "done so far: " + ", ".join(parts)

    # ending

    def finish(
        self,
        *,
        models: list[str] | None = None,
        summary: Mapping[str, Any] | None = None,
        said: Sequence[str] = (),
        warned: Sequence[str] = (),
        **more: Any,
    ) -> Outcome:
        """Write the provenance, give the output its name, and return the outcome.

        models  : names in order, for stores with node axes
        summary : figures that a rerun returns again without computing
        said    : texts and tables about the result that a rerun and `inspect` show again
        warned  : the same, as warnings
        more    : further keys of the record
        raises  : BadInput where an input was changed meanwhile, or the unfinished output has lost files
        """
        missing = [phase for phase in (self._plan.phases if self._plan else {}) if list(self.pending(phase))]
        if missing:
            raise AlignCutError(f"internal error: {self.identity.stage} finished with blocks left in {missing}")
        record = self.identity.record() | {
            "models": models or [],
            "created": (self.place.record() or {}).get("created", now()),
            "software": installed_software(),
            "runtime": self._runtime(),
            "summary": dict(summary or {}),
            "said": list(said),
            "warned": list(warned),
            **more,
        }
        self.place.drop_fragments(every=True)
        try:
            self._watch.require_same(every_file=True)
            self._seal(record)
        except BadInput:
            self.place.void()
            raise
        sync_all(entry.path for entry in walk_files(self.staging))
        self._take_name()
        self.place.clear()
        self.place.unlock()
        self._claimed = False
        self._record = record
        return Outcome.of_record(self.output, "complete", record)

    def _seal(self, record: dict[str, Any]) -> None:
        if self.identity.kind != "folder":
            seal_store(self.staging, record)
            return
        seal_folder(self.staging, record, promised=self.markers.promised())

    def _take_name(self) -> None:
        """Give the output its name; what stood there is replaced in one step, and only if all of it is ours."""
        if not os.path.lexists(self.output):
            self.staging.rename(self.output)
        else:
            before = read_record(self.output)
            if before is not None:
                self._require_own_files(before)
            elif self.output.is_symlink() or any(self.output.iterdir()):
                raise OutputInTheWay(f"{self.output} was taken by something else", do="Move it away.")
            self.place.announce_finish()
            if not exchange(self.staging, self.output):
                remove(self.place.replaced)
                self.output.rename(self.place.replaced)
                self.staging.rename(self.output)
        sync(self.output.absolute().parent)

    def _runtime(self) -> dict[str, Any]:
        options = {key: value for key, value in asdict(self.options).items() if key != "output"}
        return {
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "seconds": round(time.time() - self._started, 3),
            "finished": now(),
            **{key: options[key] for key in ("device", "batch_size", "workers", "max_memory", "scheduler")},
            "typed": list(self.options.typed),
        }

    def outcome(self) -> Outcome:
        """Return what to say where nothing was computed: up to date, or the plan of a dry run."""
        if self.complete:
            return Outcome.of_record(self.output, "up to date", self._record)
        plan = self._plan or Plan(0, 0)
        done = {phase: self.count_done(phase) for phase in plan.phases}
        return Outcome.of_plan(self.output, plan, done, self.differences)


def begin(
    identity: Identity, options: RunOptions, console: Console | None = None, *, inputs: Sequence[Path] | None = None
) -> Work:
    """Look at one output and the place of work beside it; nothing is claimed before `Work.accept`.

    inputs : paths that the output must not be, nor lie in, nor hold
    raises : OutputInTheWay where something else stands there or another process writes it
    """
    name = options.output.name
    if not name or name == ".." or "\0" in str(options.output) or name.endswith(".wip"):
        raise UsageError(
            f"{str(options.output)!r} is no name for an output", do="Give -o the path of something new, not .wip."
        )
    keep_apart([options.output], inputs or [], strict=True)
    work = Work(identity, options, console)
    try:
        work._look()
    except BaseException:
        work.place.unlock()
        raise
    return work
