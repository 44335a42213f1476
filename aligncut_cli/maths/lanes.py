"""Threads that share out the parts of one step, where scattered sums and small steps would keep only one busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

_MOST_LANES = 16


class Lanes:
    """Runs the parts of a step, one after the other or in threads; either way their results come in order.

    Parts are cut the same way whatever the number of threads, and each has one thread, so that sums do not depend on
    it.
    """

    def __init__(self, threads: Executor | None = None) -> None:
        self._threads = threads

    def run(self, parts: Sequence[Callable[[], T]]) -> list[T]:
        """Return what the parts return; a part must not run parts itself."""
        if self._threads is None:
            return [part() for part in parts]
        futures = [self._threads.submit(part) for part in parts]
        return [future.result() for future in futures]


ONE_LANE = Lanes()


@contextmanager
def open_lanes(device: torch.device) -> Iterator[Lanes]:
    """Give as many lanes as torch has threads, which has one in each meanwhile.

    A GPU does one thing after another, and has none.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu":
        yield ONE_LANE
        return
    torch.set_num_threads(1)  # the number is a thread's own
    try:
        with ThreadPoolExecutor(min(threads, _MOST_LANES), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield Lanes(pool) if threads > 1 else ONE_LANE
    finally:
        torch.set_num_threads(threads)


def share_out(count: int, parts: int) -> list[slice]:
    """Cut 0 to `count` into one to so many slices of one length, the last perhaps shorter."""
    step = max(1, -(-count // parts))
    return [slice(start, min(start + step, count)) for start in range(0, max(count, 1), step)]


def sum_in_order(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Add tensors of one shape from the first to the last, into the first."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total
