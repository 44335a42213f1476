"""The one driver of every stage: it plans, skips what is done, reads ahead, computes, marks, and shows progress.

A stage is a list of phases, and a phase is a list of blocks that are loaded, computed and written one by one, the next
two being read and the last one written meanwhile:

    def build(source: Store, params: EigsParams, work: Work) -> Stage:
        from aligncut_cli.stages.eigs.phases import EigsStage

        return EigsStage(work, source, params)

    return run_stage(identity, options, console, inputs=[source.path], build=partial(build, source, params))

With `--scheduler` the blocks of parallel phases go to workers (see `store/crew.py`), which make the stage for
themselves: `build` is then a partial of a module's function, which can be sent; a stage whose `build` is a closure runs
here alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from aligncut_cli.console import Console
from aligncut_cli.machine import undisturbed_imports
from aligncut_cli.params import RunOptions
from aligncut_cli.store.crew import Crew, open_crew
from aligncut_cli.store.phase import Phase as Phase
from aligncut_cli.store.phase import Stage as Stage
from aligncut_cli.store.phase import compute_blocks
from aligncut_cli.store.phase import load_ahead as load_ahead
from aligncut_cli.store.phase import node_phase as node_phase
from aligncut_cli.store.phase import single_step as single_step
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.run import Outcome, Work, begin


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
    with begin(identity, options, console, inputs=list(inputs)) as work:
        outcome = _run_pending(work, build, options, console)
    say_outcome(outcome, console)
    return outcome


def say_outcome(outcome: Outcome, console: Console) -> None:
    """Say what was found, whether it was computed now or earlier."""
    for text in outcome.said:
        console.note(text)
    for text in outcome.warned:
        console.warn(text)


def _run_pending(work: Work, build: Callable[[Work], Stage], options: RunOptions, console: Console) -> Outcome:
    """Answer from a finished output, or make the stage and run what is pending of its phases, by workers if asked."""
    if work.complete:
        return work.outcome()
    with undisturbed_imports():
        stage = build(work)
    phases = stage.phases()
    plan = replace(stage.plan(), phases={phase.name: len(phase.blocks) for phase in phases})
    with contextlib.ExitStack() as stack:
        crew: Crew | None = None
        if options.scheduler is not None and not options.dry_run:
            crew = stack.enter_context(open_crew(options.scheduler, work))
        if not work.accept(plan):
            return work.outcome()
        if crew is not None and isinstance(build, partial):
            crew.enlist(build, plan)
        for phase in phases:
            if crew is not None and crew.takes(phase):
                crew.run_phase(phase)
            else:
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

        def finish(index: int) -> None:
            work.mark(phase.name, index)
            if advance is not None:
                advance(phase.size(blocks[index]), phase.detail(blocks[index]))

        compute_blocks(phase, pending, done=finish)
