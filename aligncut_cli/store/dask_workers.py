"""Workers of a Dask scheduler; the only file that imports Dask."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.scheduler import KilledWorker

from aligncut_cli.errors import UsageError

CONNECT_SECONDS = 15
ANSWER_SECONDS = 300
RETRIES = 2
"""How often a block is computed again that raised an error of the system, such as a file that is not there yet."""


class DaskWorkers:
    """The workers of one scheduler; another takes over a batch whose worker dies, and so three times."""

    retries = True

    def __init__(self, scheduler: str) -> None:
        kind, _, rest = scheduler.partition(":")
        where: dict[str, Any] = {"scheduler_file": rest} if kind == "file" else {"address": scheduler}
        if kind == "file" and not Path(rest).is_file():
            raise UsageError(
                f"--scheduler {scheduler}: there is no such file",
                do=f"Start it first: dask scheduler --scheduler-file {rest}",
            )
        for name in ("distributed", "distributed.client"):  # what they say is said in our words
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            self._client = Client(**where, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--scheduler {scheduler}: no scheduler answers there",
                why=f"{type(error).__name__}: {error}".splitlines()[0],
                do="Start it with: dask scheduler --scheduler-file s.json, and workers with: dask worker",
            ) from error
        self.executor: Executor = self._client.get_executor(pure=False, retries=RETRIES)

    def count(self) -> int:
        """Return how many there are at this moment; 0 too where the scheduler does not answer."""
        if self.is_lost():
            return 0
        try:
            return len(self._client.nthreads())
        except (OSError, RuntimeError, ValueError):
            return 0

    def ask(self, question: Callable[..., Any], *arguments: Any) -> Mapping[str, Any]:
        """Have every worker answer, each where it computes: its imports would hold up what listens to the scheduler."""
        futures = {
            name: self._client.submit(question, *arguments, workers=[name], pure=False)
            for name in self._client.nthreads()
        }
        begun = time.monotonic()
        while time.monotonic() - begun < ANSWER_SECONDS and not all(future.done() for future in futures.values()):
            time.sleep(0.05)
        return {name: _answer_of(future) for name, future in futures.items()}

    def tell(self, order: Callable[..., Any], *arguments: Any) -> None:
        """Have every worker do something at once, whatever it computes."""
        self._client.run(order, *arguments, on_error="return")

    def room(self) -> int | None:
        """Return the least memory after which a nanny stops its worker, in bytes."""
        known = self._client.scheduler_info(n_workers=-1)["workers"].values()
        limits = [int(worker["memory_limit"]) for worker in known if worker.get("memory_limit")]
        return min(limits, default=None)

    def has_died(self, error: BaseException) -> bool:
        """Return whether the batch's workers have died one after the other."""
        return isinstance(error, KilledWorker)

    def revive(self) -> None:
        """Do nothing: a worker's nanny starts it again."""

    def is_lost(self) -> bool:
        """Return whether the scheduler cannot be reached any more."""
        return self._client.status != "running"

    def end(self) -> None:
        """Cancel what was submitted, and let go of the scheduler."""
        with contextlib.suppress(Exception):  # the scheduler may be gone, which changes nothing
            self.executor.shutdown(wait=False)
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)


def _answer_of(future: Any) -> Any:
    """Return what a worker answered, or the error that it raised."""
    if not future.done():
        return TimeoutError(f"no answer in {ANSWER_SECONDS} s")
    error = future.exception()
    return future.result() if error is None else error
