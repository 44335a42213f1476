"""The one driver of every stage: it plans, skips what is done, reads ahead, computes, marks, and shows progress.

A stage is a list of phases, and a phase is a list of blocks that are loaded, computed and written one by one:

    def build(work: Work) -> Stage:
        from aligncut_cli.stages.eigs.phases import EigsPhases

        return EigsPhases(work, source, params, options, console)

    return run_stage(identity, options, console, inputs=[source.path], build=build)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from aligncut_cli.console import Console
from aligncut_cli.params import RunOptions
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.read import read_ahead
from aligncut_cli.store.run import Outcome, Plan, Work, begin

if TYPE_CHECKING:
    from aligncut_cli.store.nodes import Block, NodeAxes

B = TypeVar("B")


@dataclass(frozen=True)
class Phase(Generic[B]):
    """Blocks of one kind of work, each marked when it is written.

    name     : in plans and markers
    blocks   : what is computed one by one
    compute  : given a block's index, the block and its input; the block is written when it returns
    load     : reads a block's input in a background thread, two blocks ahead of the computing
    feed     : in place of `load`: given the indices to compute, gives the input of each, in order
    unit     : what the progress counts; where it is empty the phase shows none, or its own
    size     : how many of that unit a block is
    detail   : what is said beside the progress after a block
    label    : what the progress is called; otherwise the name
    parallel : that a block needs nothing which another block of this phase left in the process or in the store
    """

    name: str
    blocks: Sequence[B]
    compute: Callable[[int, B, Any], None]
    load: Callable[[B], Any] | None = None
    feed: Callable[[Sequence[int]], AbstractContextManager[Iterator[Any]]] | None = None
    unit: str = ""
    size: Callable[[B], int] = lambda block: 1
    detail: Callable[[B], str] = lambda block: ""
    label: str = ""
    parallel: bool = False


def single_step(name: str, compute: Callable[[], None]) -> Phase[None]:
    """Return a phase of one block, which is computed whole or not at all."""
    return Phase(name, [None], lambda index, block, data: compute())


def node_phase(
    name: str,
    axes: NodeAxes,
    blocks: Sequence[Block],
    *,
    load: Callable[[Block], Any],
    compute: Callable[[int, Block, Any], None],
) -> Phase[Block]:
    """Return a phase over blocks of nodes that are independent of each other."""
    return Phase(
        name,
        blocks,
        compute,
        load,
        unit="nodes",
        size=axes.n_block_nodes,
        detail=lambda block: str(block.slot),
        parallel=True,
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
        """Give the output its name and record what was found; every block is marked."""
        ...


def run_stage(
    identity: Identity,
    options: RunOptions,
    console: Console,
    *,
    inputs: Sequence[Path],
    build: Callable[[Work], Stage],
) -> Outcome:
    """Answer from a finished output, or make the stage and run its phases.

    inputs : paths that the output must not be, nor lie in
    build  : imports what is heavy, checks, and returns the stage; it is not called where the output is up to date
    """
    with begin(identity, options, inputs=list(inputs)) as work:
        outcome = _run_pending(work, build, console)
    say_outcome(outcome, console)
    return outcome


def say_outcome(outcome: Outcome, console: Console) -> None:
    """Say what was found, whether it was computed now or earlier."""
    for text in outcome.said:
        console.note(text)
    for text in outcome.warned:
        console.warn(text)


def _run_pending(work: Work, build: Callable[[Work], Stage], console: Console) -> Outcome:
    """Answer from a finished output, or make the stage and run what is pending of its phases."""
    if work.complete:
        return work.outcome()
    stage = build(work)
    phases = stage.phases()
    plan = replace(stage.plan(), phases={phase.name: len(phase.blocks) for phase in phases})
    if not work.accept(plan):
        return work.outcome()
    for phase in phases:
        run_phase(work, phase, console)
    return stage.finish()


def run_phase(work: Work, phase: Phase[Any], console: Console) -> None:
    """Compute every block of a phase that is not done, in order."""
    pending = list(work.pending(phase.name))
    if not pending:
        return
    blocks = phase.blocks
    total = sum(map(phase.size, blocks))
    done = total - sum(phase.size(blocks[index]) for index in pending)
    with contextlib.ExitStack() as stack:
        advance = None
        if phase.unit:
            bar = console.progress(phase.label or phase.name, total, unit=phase.unit, done=done)
            advance = stack.enter_context(bar).advance
        inputs = _feed(phase, pending, stack)
        for index, data in zip(pending, inputs, strict=True):
            phase.compute(index, blocks[index], data)
            work.mark(phase.name, index)
            if advance is not None:
                advance(phase.size(blocks[index]), phase.detail(blocks[index]))


def _feed(phase: Phase[Any], pending: Sequence[int], stack: contextlib.ExitStack) -> Iterable[Any]:
    if phase.feed is not None:
        return stack.enter_context(phase.feed(pending))
    if phase.load is None:
        return [None] * len(pending)
    load, blocks = phase.load, phase.blocks
    return read_ahead(lambda i=i: load(blocks[i]) for i in pending)


def load_ahead(blocks: Sequence[B], load: Callable[[B], Any]) -> Iterator[tuple[B, Any]]:
    """Give each block with its input, which a background thread reads two blocks ahead; for passes inside a block."""
    return zip(blocks, read_ahead(lambda b=b: load(b) for b in blocks), strict=True)
