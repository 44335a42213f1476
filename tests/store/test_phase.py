"""The loop over a phase's blocks: each is written while the next is computed, and said to be done once it is."""

from __future__ import annotations

import threading

import pytest

from aligncut_cli.store.phase import Phase, compute_blocks


def squares(events: list[tuple[str, int]], *, fails_at: int | None = None) -> Phase[int]:
    """A phase whose blocks 0 to 4 are squared, and of which everything is noted."""

    def compute(index: int, block: int, data: int) -> int:
        if index == fails_at:
            raise KeyboardInterrupt
        events.append(("compute", index))
        return data * data

    def write(index: int, block: int, value: int) -> None:
        events.append(("write", value))

    return Phase("squares", range(5), compute, load=lambda block: block, write=write)


def test_blocks_are_written_in_order_and_done_after_that() -> None:
    events: list[tuple[str, int]] = []
    compute_blocks(squares(events), [0, 2, 3], done=lambda index: events.append(("done", index)))
    assert [event for event in events if event[0] == "compute"] == [("compute", 0), ("compute", 2), ("compute", 3)]
    written = [event for event in events if event[0] != "compute"]
    assert written == [("write", 0), ("done", 0), ("write", 4), ("done", 2), ("write", 9), ("done", 3)]


def test_a_block_is_written_while_the_next_is_computed() -> None:
    second_begun, first_written = threading.Event(), threading.Event()

    def compute(index: int, block: int, data: object) -> None:
        if index == 1:
            second_begun.set()
            assert first_written.wait(10)

    def write(index: int, block: int, value: None) -> None:
        if index == 0:
            assert second_begun.wait(10)
            first_written.set()

    finished: list[int] = []
    compute_blocks(Phase("both", range(2), compute, write=write), [0, 1], done=finished.append)
    assert finished == [0, 1]


def test_what_was_computed_before_an_interruption_is_written_and_done() -> None:
    events: list[tuple[str, int]] = []
    finished: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        compute_blocks(squares(events, fails_at=3), [0, 1, 2, 3, 4], done=finished.append)
    assert finished == [0, 1, 2]
    assert ("write", 4) in events


def test_a_block_that_could_not_be_written_is_not_done_and_ends_the_phase() -> None:
    def write(index: int, block: int, value: None) -> None:
        if index == 1:
            raise OSError("disk full")

    finished: list[int] = []
    phase = Phase("full", range(9), lambda index, block, data: None, write=write)
    with pytest.raises(OSError, match="disk full"):
        compute_blocks(phase, range(9), done=finished.append)
    assert finished == [0]
