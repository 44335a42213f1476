"""What a stage is made of: phases of blocks that are loaded, computed and written one by one, here or by a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from aligncut_cli.store.outcome import Outcome, Plan
from aligncut_cli.store.read import read_ahead

if TYPE_CHECKING:
    from aligncut_cli.store.nodes import Block, NodeAxes

B = TypeVar("B")


@dataclass(frozen=True)
class Phase(Generic[B]):
    """Blocks of one kind of work, each marked when it is written.

    name     : in plans and markers
    blocks   : what is computed one by one
    compute  : given a block's index, the block and its input; the block is written when it returns, or
    write    : given a block's index, the block and what `compute` returned, writes it while the next is computed
    load     : reads a block's input in a background thread, two blocks ahead of the computing
    feed     : in place of `load`: given the indices to compute, gives the input of each, in order
    unit     : what the progress counts; where it is empty the phase shows none, or its own
    size     : how many of that unit a block is
    detail   : what is said beside the progress after a block
    label    : what the progress is called; otherwise the name
    parallel : that a block needs nothing which another block of this phase left in the process or in the store
    part     : given a block's index, a number that neighbours share for which something costly is prepared once
    together : neighbouring blocks, counted from the first, that are computed at once
    """

    name: str
    blocks: Sequence[B]
    compute: Callable[[int, B, Any], Any]
    load: Callable[[B], Any] | None = None
    feed: Callable[[Sequence[int]], AbstractContextManager[Iterator[Any]]] | None = None
    unit: str = ""
    size: Callable[[B], int] = lambda block: 1
    detail: Callable[[B], str] = lambda block: ""
    label: str = ""
    parallel: bool = False
    part: Callable[[int], int] | None = None
    together: int = 1
    write: Callable[[int, B, Any], None] | None = None


def single_step(name: str, compute: Callable[[], None]) -> Phase[None]:
    """Return a phase of one block, which is computed whole or not at all."""
    return Phase(name, [None], lambda index, block, data: compute())


def node_phase(
    name: str,
    axes: NodeAxes,
    blocks: Sequence[Block],
    *,
    load: Callable[[Block], Any],
    compute: Callable[[int, Block, Any], Any],
    write: Callable[[int, Block, Any], None],
    part: Callable[[int], int] | None = None,
) -> Phase[Block]:
    """Return a phase over blocks of nodes that are independent of each other; see `Phase`."""
    return Phase(
        name,
        blocks,
        compute,
        load,
        unit="nodes",
        size=axes.n_block_nodes,
        detail=lambda block: str(block.slot),
        parallel=True,
        part=part,
        write=write,
    )


class Stage(Protocol):
    """What a stage offers to the driver; making it checks its inputs and parameters, and writes nothing."""

    def plan(self) -> Plan:
        """Return memory, disk and notes; the driver adds the phases."""
        ...

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        ...

    def finish(self) -> Outcome:
        """Give the output its name and say what was found; every block is marked."""
        ...


def feed_blocks(phase: Phase[Any], pending: Sequence[int], stack: contextlib.ExitStack) -> Iterable[Any]:
    """Give the input of each block in order, read ahead; what it opens is closed with the stack."""
    if phase.feed is not None:
        return stack.enter_context(phase.feed(pending))
    if phase.load is None:
        return [None] * len(pending)
    load, blocks = phase.load, phase.blocks
    return read_ahead(lambda i=i: load(blocks[i]) for i in pending)


def compute_blocks(
    phase: Phase[Any],
    indices: Sequence[int],
    *,
    done: Callable[[int], None],
    before: Callable[[], None] = lambda: None,
) -> None:
    """Compute blocks in order, each written while the next is computed where the phase has a `write`.

    done   : is told each block's index once it is written, in order; also of the last before something went wrong
    before : is called before each is computed
    """
    with contextlib.ExitStack() as stack:
        inputs = feed_blocks(phase, indices, stack)
        behind = stack.enter_context(_WriteBehind())
        for index, data in zip(indices, inputs, strict=True):
            before()
            behind.follow(phase, index, phase.compute(index, phase.blocks[index], data), done)


class _WriteBehind:
    """Writes one block in a thread of its own; the next one waits for it, and so does the end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> _WriteBehind:
        return self

    def __exit__(self, *failure: object) -> None:
        with self._pool:
            self._wait()

    def follow(self, phase: Phase[B], index: int, value: Any, done: Callable[[int], None]) -> None:
        """Write what was computed of a block, once the block before is written."""
        self._wait()
        if phase.write is None:
            done(index)
        else:
            self._last = self._pool.submit(self._write, phase.write, index, phase.blocks[index], value, done)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    @staticmethod
    def _write(
        write: Callable[[int, B, Any], None], index: int, block: B, value: Any, done: Callable[[int], None]
    ) -> None:
        write(index, block, value)
        done(index)


def load_ahead(blocks: Sequence[B], load: Callable[[B], Any]) -> Iterator[tuple[B, Any]]:
    """Give each block with its input, which a background thread reads two blocks ahead; for passes inside a block."""
    return zip(blocks, read_ahead(lambda b=b: load(b) for b in blocks), strict=True)
