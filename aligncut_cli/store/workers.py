"""Worker processes behind `concurrent.futures.Executor`: on this machine, or of a Dask scheduler."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from aligncut_cli import machine
from aligncut_cli.errors import UsageError

WRITE_IT = "Write file:scheduler.json, tcp://HOST:PORT or local:N."


class Workers(Protocol):
    """Processes that compute, wherever they are.

    executor : where batches are submitted
    retries  : whether a batch whose worker dies is tried again on others before that is said
    """

    executor: Executor
    retries: bool

    def count(self) -> int:
        """Return how many there are at this moment."""
        ...

    def ask(self, question: Callable[..., Any], *arguments: Any) -> Mapping[str, Any]:
        """Have every worker answer; returns answers, or the errors that were raised, by worker."""
        ...

    def tell(self, order: Callable[..., Any], *arguments: Any) -> None:
        """Have every worker do something at once, whatever it computes."""
        ...

    def room(self) -> int | None:
        """Return the bytes of memory after which the tightest worker would be stopped; None where nobody stops them."""
        ...

    def has_died(self, error: BaseException) -> bool:
        """Return whether an error says that the worker of a batch has died."""
        ...

    def revive(self) -> None:
        """Start again what a death has brought down."""
        ...

    def is_lost(self) -> bool:
        """Return whether the scheduler cannot be reached any more."""
        ...


@contextlib.contextmanager
def open_workers(scheduler: str, device: str = "auto") -> Iterator[Workers]:
    """Start or reach workers, and let go of them at the end.

    scheduler : as --scheduler takes it
    device    : as --device takes it; workers of this machine share out its GPUs, or the one that is named
    raises    : UsageError where nothing is reached there
    """
    local = re.fullmatch(r"local:([1-9]\d{0,3})", scheduler)
    if local:
        pool = LocalWorkers(int(local[1]), machine.visible_gpus(device))
        try:
            yield pool
        finally:
            pool.end()
        return
    if not re.fullmatch(r"file:.+|(tcp|tls)://.+:\d+", scheduler):
        raise UsageError(f"--scheduler {scheduler!r} names no scheduler", do=WRITE_IT)
    try:
        from aligncut_cli.store.dask_workers import DaskWorkers
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--scheduler {scheduler} needs Dask, and {error.name} is not installed",
            do="Install it with: pip install 'aligncut[cluster]', or take local:N.",
        ) from error
    dask = DaskWorkers(scheduler)
    try:
        yield dask
    finally:
        dask.end()


class LocalWorkers:
    """Processes of this machine, with a GPU each; they end with the one that started them, however that ends."""

    retries = False

    def __init__(self, count: int, gpus: Sequence[str]) -> None:
        self._count, self._gpus = count, gpus
        self._context = multiprocessing.get_context("spawn")
        self.revive()

    def revive(self) -> None:
        """Start a new pool; that of a dead process takes no more work."""
        self._over = self._context.Event()
        self.executor: Executor = ProcessPoolExecutor(
            self._count,
            self._context,
            initializer=_begin_worker,
            initargs=(self._over, self._context.Value("i", 0), self._gpus),
        )

    def count(self) -> int:
        """Return how many there are."""
        return self._count

    def ask(self, question: Callable[..., Any], *arguments: Any) -> Mapping[str, Any]:
        """Have one of them answer, as all are alike."""
        return {"local": self.executor.submit(question, *arguments).result()}

    def tell(self, order: Callable[..., Any], *arguments: Any) -> None:
        """Do nothing: these workers end with the run."""

    def room(self) -> None:
        """Return None: nobody stops them."""

    def has_died(self, error: BaseException) -> bool:
        """Return whether the pool was brought down by the death of a process."""
        return isinstance(error, BrokenProcessPool)

    def is_lost(self) -> bool:
        """Return False: there is no scheduler."""
        return False

    def end(self) -> None:
        """End the processes at once; what they are in the middle of is nobody's any more."""
        self._over.set()
        self.executor.shutdown(wait=True, cancel_futures=True)


def _begin_worker(over: Any, begun: Any, gpus: Sequence[str]) -> None:
    with begun.get_lock():
        number = begun.value
        begun.value += 1
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]  # one each, as far as they go
    # Ctrl-C reaches the whole process group; the first process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_when, args=(over,), daemon=True).start()


def _end_when(over: Any) -> None:
    """End this process when that is asked for, or when its parent is gone, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    while not over.wait(1.0):
        if parent is not None and not parent.is_alive():
            break
    os._exit(1)
