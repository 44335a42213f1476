"""The first process of a run and its workers: it alone owns lock, record and markers, and hands out batches of blocks.

A batch is some neighbouring blocks worth a few seconds. Its blocks are computed as they would be here and lie in chunks
or files of their own, so neither the batches nor who computes them change a byte of the result.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

from aligncut_cli.console import Progress
from aligncut_cli.errors import OutOfResources
from aligncut_cli.store.files import write_json
from aligncut_cli.store.inspection import require_able
from aligncut_cli.store.job import Job, sample_inputs, write_job
from aligncut_cli.store.outcome import Plan
from aligncut_cli.store.phase import Phase, Stage
from aligncut_cli.store.place import CREW, JOB
from aligncut_cli.store.run import Work
from aligncut_cli.store.worker import Report, compute_batch, portray, release
from aligncut_cli.store.workers import Workers, open_workers

LEAST_SECONDS = 2.0
"""What a batch is worth at least, so that handing it out costs little."""
AHEAD = 2
"""Batches per worker that are handed out before the first is done."""
MOST_DEATHS = 2
POLL, SAVE = 0.5, 5.0
NO_WORKER_SECONDS = 120.0
AGAIN = "What is finished is kept. Type the same command again, with or without --scheduler."


@dataclass
class Batch:
    """Blocks that one worker computes in a row.

    deaths : of workers that computed it
    """

    indices: list[int]
    deaths: int = 0


@contextlib.contextmanager
def open_crew(scheduler: str, work: Work) -> Iterator[Crew]:
    """Reach the workers; they are let go at the end, and what was submitted is cancelled."""
    with open_workers(scheduler, work.options.device) as workers:
        crew = Crew(scheduler, work, workers)
        try:
            with contextlib.ExitStack() as crew.held:
                yield crew
        finally:
            crew.cancel()


class Crew:
    """Workers that compute one run's blocks.

    shares : blocks that each worker has computed
    """

    def __init__(self, scheduler: str, work: Work, workers: Workers) -> None:
        self.scheduler, self.work, self.workers = scheduler, work, workers
        self.held = contextlib.ExitStack()
        self.shares: Counter[str] = Counter()
        self._file, self._digest = str((work.wip / JOB).absolute()), ""
        self._flight: dict[Future[Report], Batch] = {}
        self._said: set[str] = set()
        self._saved = self._alone_since = 0.0

    # beginning

    def enlist(self, build: Callable[[Work], Stage], plan: Plan) -> None:
        """Write the job, and refuse workers that cannot do it, before any work.

        raises : UsageError, OutOfResources
        """
        self.held.enter_context(self.work.place.beating())
        job = Job.of(self.work, build)
        self._digest = write_job(self.work.wip / JOB, job)
        self._job = job
        self._await_workers()
        files = [self._file, *sample_inputs(self.work.identity)]
        try:
            answers = self.workers.ask(portray, files, job.options.device)
        except CancelledError:
            raise self._lost() from None
        needed = plan.memory if plan.worker is None else plan.worker
        count, room = self.workers.count(), self.workers.room()
        for text in require_able(answers, job.options.device, needed, count=count, room=room):
            self.work.console.warn(text)
        self._save(force=True)

    def _await_workers(self) -> None:
        begun = time.monotonic()
        while not self.workers.count():
            if self.workers.is_lost() or time.monotonic() - begun > NO_WORKER_SECONDS:
                raise OutOfResources(
                    f"--scheduler {self.scheduler}: no worker has come in {NO_WORKER_SECONDS:.0f} s",
                    do="Start some: dask worker --scheduler-file s.json --nthreads 1 --nworkers 4",
                )
            time.sleep(POLL)

    def takes(self, phase: Phase[Any]) -> bool:
        """Return whether the blocks of a phase go to workers; a single one is computed here."""
        return bool(self._digest) and phase.parallel and len(phase.blocks) > 1

    # working

    def run_phase(self, phase: Phase[Any]) -> None:
        """Have every block of a phase computed that is not done.

        raises : OutOfResources that names a block whose worker always dies, when all others are done
        """
        pending = list(self.work.pending(phase.name))
        if not pending:
            return
        blocks, console = phase.blocks, self.work.console
        total = sum(map(phase.size, blocks))
        done = total - sum(phase.size(blocks[index]) for index in pending)
        with console.progress(phase.label or phase.name, total, unit=phase.unit or "blocks", done=done) as progress:
            _Round(self, phase, progress).run(deque(_cut(phase, pending, n_workers=self.workers.count())))
        console.detail(f"{phase.name}: blocks of this run by workers: {self.describe()}")

    def submit(self, phase: str, batch: Batch) -> None:
        """Hand out a batch."""
        future = self.workers.executor.submit(compute_batch, self._file, self._digest, phase, batch.indices)
        self._flight[future] = batch

    @property
    def busy(self) -> int:
        """Return how many batches are handed out."""
        return len(self._flight)

    def collect(self) -> list[tuple[Batch, Report | None]]:
        """Wait for batches; returns those that have ended with their reports, None where the worker has died.

        raises : OutOfResources where scheduler or workers are gone; what a worker raised
        """
        finished, _ = wait(self._flight, timeout=POLL, return_when=FIRST_COMPLETED)
        if not finished:
            self._require_alive()
        found: list[tuple[Batch, Report | None]] = []
        for future in finished:
            batch = self._flight.pop(future)
            try:
                found.append((batch, future.result()))
            except CancelledError:
                raise self._lost() from None
            except Exception as error:
                if not self.workers.has_died(error):
                    raise
                found.append((batch, None))
        if any(report is None for _, report in found) and not self.workers.retries:
            found += [(batch, None) for batch in self._flight.values()]  # one death ends the whole pool
            self._flight.clear()
            self.workers.revive()
        return found

    def _require_alive(self) -> None:
        if self.workers.is_lost():
            raise self._lost()
        now = time.monotonic()
        if self.workers.count():
            self._alone_since = now
        elif now - (self._alone_since or now) > NO_WORKER_SECONDS:
            blocks = ", ".join(str(batch.indices) for batch in self._flight.values())
            raise OutOfResources(
                f"all workers are gone; blocks that were being computed: {blocks}",
                why="One of these may need more memory than its worker has.",
                do=AGAIN,
            )
        else:
            self._alone_since = self._alone_since or now

    def _lost(self) -> OutOfResources:
        return OutOfResources(f"the scheduler {self.scheduler} was lost", do=AGAIN)

    def accept(self, phase: str, report: Report) -> None:
        """Mark what a worker has done, and say what it warned of."""
        if report.done:
            self.work.mark_for(phase, report.done)
        self.shares[report.worker] += len(report.done)
        for text in report.warnings:
            if text not in self._said:
                self._said.add(text)
                self.work.console.warn(text)
        self._save()
        if report.error is not None:
            raise report.error

    def describe(self) -> str:
        """Say who has done how much."""
        return describe_shares(self.shares)

    def _save(self, *, force: bool = False) -> None:
        """Write who has done how much where `inspect` finds it."""
        if force or time.monotonic() - self._saved > SAVE:
            self._saved = time.monotonic()
            plain = {key: value for key, value in self.work.settled.items() if isinstance(value, str | int | float)}
            found = {
                "scheduler": self.scheduler,
                "threads": self._job.threads,
                "settled": plain,
                "workers": dict(sorted(self.shares.items())),
            }
            write_json(self.work.wip / CREW, found)

    def cancel(self) -> None:
        """Take back what was handed out."""
        for future in self._flight:
            future.cancel()
        self._flight.clear()
        if self._digest and not self.workers.is_lost():
            with contextlib.suppress(Exception):  # a worker that cannot be told has nothing to let go
                self.workers.tell(release, self._digest)


class _Round:
    """One phase on its way through the workers."""

    def __init__(self, crew: Crew, phase: Phase[Any], progress: Progress) -> None:
        self.crew, self.phase, self.progress = crew, phase, progress
        self._seconds, self._computed = 0.0, 0
        self._lethal: list[tuple[int, int]] = []

    def run(self, units: deque[list[int]]) -> None:
        """Hand out all blocks; those whose worker has died twice wait, and are computed one at a time at the end."""
        alone: deque[Batch] = deque()
        again: deque[Batch] = deque()
        while units or again or self.crew.busy:
            while (units or again) and self.crew.busy < AHEAD * max(1, self.crew.workers.count()):
                self.crew.submit(self.phase.name, again.popleft() if again else self._next(units))
            for batch in self._collect():
                (alone if batch.deaths >= MOST_DEATHS or self.crew.workers.retries else again).append(batch)
        while alone:
            batch = alone.popleft()
            self.crew.submit(self.phase.name, batch)
            while self.crew.busy:
                for dead in self._collect():
                    if len(dead.indices) == 1:
                        self._lethal.append((dead.indices[0], dead.deaths))
                    else:
                        alone.extend(Batch([index], dead.deaths) for index in dead.indices)
        if self._lethal:
            raise self._name_lethal()

    def _next(self, units: deque[list[int]]) -> Batch:
        """Return the next blocks, as many as are worth the least time; single ones until that is known."""
        wanted = math.ceil(LEAST_SECONDS * self._computed / self._seconds) if self._seconds else 1
        indices = list(units.popleft())
        while units and len(indices) + len(units[0]) <= wanted:
            indices += units.popleft()
        return Batch(indices)

    def _collect(self) -> Iterator[Batch]:
        """Mark what has come back; gives the batches whose worker has died."""
        for batch, report in self.crew.collect():
            if report is None:
                batch.deaths += 1
                yield batch
                continue
            self._seconds += report.seconds
            self._computed += len(report.done)
            self.crew.accept(self.phase.name, report)
            size = sum(self.phase.size(self.phase.blocks[index]) for index in report.done)
            self.progress.advance(size, self.crew.describe())

    def _name_lethal(self) -> OutOfResources:
        shown = ", ".join(
            f"block {index} of {self.phase.name} {self.phase.detail(self.phase.blocks[index])}".rstrip()
            for index, _ in self._lethal
        )
        return OutOfResources(
            f"every worker that computed it has died: {shown}",
            why="It may need more memory than a worker has, or one of its libraries crashes on it.",
            do="All other blocks of this phase are finished and kept. Give workers more memory, then type the same "
            "command again, with or without --scheduler.",
        )


def describe_shares(shares: Counter[str]) -> str:
    """Say how many blocks each of a few workers has computed, or the range among many."""
    if len(shares) <= 4:
        return ", ".join(f"{name} {count:,}" for name, count in sorted(shares.items()))
    return f"{len(shares)} workers, {min(shares.values()):,} to {max(shares.values()):,} blocks each"


def _cut(phase: Phase[Any], pending: Sequence[int], *, n_workers: int) -> Iterator[list[int]]:
    """Cut blocks into runs that stay together: what is computed at once, or all for which one thing is prepared.

    A part goes to one worker where there are parts enough for all, so that few prepare the same thing.
    """
    part = phase.part
    parts = 0 if part is None else len({part(index) for index in pending})
    unit: list[int] = []
    key = -1
    for index in pending:
        own = part(index) if part is not None and parts >= 2 * n_workers else index // phase.together
        if unit and own != key:
            yield unit
            unit = []
        unit.append(index)
        key = own
    if unit:
        yield unit
