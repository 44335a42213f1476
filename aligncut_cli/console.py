"""The only writer to the terminal: the result on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from aligncut_cli.errors import AlignCutError

HEARTBEAT_SECONDS = 30.0
CONTROL_CODES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
CONTROL_CODES |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)}
"""What would steer a terminal or turn the reading direction, and how it is shown instead."""


def escape(text: str) -> str:
    """Return text with control codes written out, so that no name can steer the terminal."""
    return text.translate(CONTROL_CODES)


def prepare_streams() -> None:
    """Make standard streams safe to write to: closed ones lead nowhere, and no letter is refused.

    A closed descriptor is opened again, because the next file to be opened would get its number, and with it all that
    libraries print. Paths are bytes, so stdin and stdout pass them on as they are, whatever the terminal's encoding.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            while os.open(os.devnull, os.O_RDWR) < number:
                pass
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
        elif name == "stderr" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")


def write(stream: TextIO, text: str) -> bool:
    """Write and flush; return False where nobody reads that stream any more, which is no reason to stop working."""
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        _silence(stream)
        return False
    return True


def flush_streams() -> None:
    """Flush what is left to say at the end of the process, so that Python's own flush has nothing to complain of."""
    for stream in (sys.stdout, sys.stderr):
        write(stream, "")


def _silence(stream: TextIO) -> None:
    """Let a broken stream lead nowhere from here on; its buffer goes with it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@dataclass
class Progress:
    """How far one phase has got; `advance` is called by the stage."""

    label: str
    unit: str
    total: int
    done: int = 0
    already: int = 0
    detail: str = ""
    started: float = field(default_factory=time.monotonic)

    def advance(self, count: int = 1, detail: str = "") -> None:
        """Count finished items; `detail` is shown beside them."""
        self.done += count
        self.detail = detail or self.detail

    def reach(self, done: int, total: int, detail: str = "") -> None:
        """Set both ends, for a routine that reports (done, total)."""
        self.done, self.total = done, total
        self.detail = detail or self.detail

    @property
    def rate(self) -> float:
        """Items per second since this process began."""
        return max(self.done - self.already, 0) / max(time.monotonic() - self.started, 1e-9)

    def line(self) -> str:
        """Count, rate and time left in one line."""
        text = f"{self.label}: {self.done:,} of {self.total:,} {self.unit}"
        if self.rate > 0:
            left = (self.total - self.done) / self.rate
            text += f", {self.rate:,.3g} {self.unit}/s, {readable_seconds(left)} left"
        return f"{text} ({self.detail})" if self.detail else text


class Console:
    """Notes, warnings, progress and tables for one command."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose
        self.running: Progress | None = None

    def note(self, text: str) -> None:
        """Say something about the work."""
        if not self.quiet:
            self._say(text)

    def _say(self, text: str) -> None:
        write(sys.stderr, escape(text) + "\n")

    def detail(self, text: str) -> None:
        """Say something that only -v asks for."""
        if self.verbose:
            self.note(text)

    def warn(self, text: str) -> None:
        """Say something that the reader should not miss, even with -q."""
        self._say(f"warning: {text}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
        """Show a table; numbers are right-aligned."""
        if not self.quiet:
            self._say(format_table(header, rows, title=title))

    @contextlib.contextmanager
    def progress(self, label: str, total: int, *, unit: str, done: int = 0) -> Iterator[Progress]:
        """Show a bar on a terminal, elsewhere a line every 30 seconds."""
        progress = Progress(label, unit, total, done, done)
        self.running = progress
        show = self._bar if sys.stderr.isatty() and not self.quiet else self._heartbeat
        with show(progress):
            yield progress
        self.running = None

    @contextlib.contextmanager
    def _bar(self, progress: Progress) -> Iterator[None]:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        with RichProgress(*columns, console=RichConsole(stderr=True), refresh_per_second=5) as bar:
            task = bar.add_task(progress.label, total=progress.total, unit=progress.unit, detail="")

            def draw() -> None:
                bar.update(task, completed=progress.done, total=progress.total, detail=progress.detail)

            with repeat(draw, every=0.2):
                yield
            draw()

    @contextlib.contextmanager
    def _heartbeat(self, progress: Progress) -> Iterator[None]:
        with repeat(lambda: self.note(progress.line()), every=HEARTBEAT_SECONDS):
            yield

    def result(self, text: str) -> None:
        """Print the command's result, the only thing that goes to stdout; where that fails the work is still done."""
        if not write(sys.stdout, text + "\n"):
            self.warn("the result could not be printed: standard output is closed or full")

    def result_json(self, value: Any) -> None:
        """Print the command's result as JSON."""
        self.result(json.dumps(value, indent=2, allow_nan=False, default=str))

    def error(self, error: BaseException) -> None:
        """Say what went wrong and what to do; the traceback only with -v."""
        if self.verbose:
            self._say("".join(traceback.format_exception(error)))
        if isinstance(error, AlignCutError):
            self._say("\n".join([f"error: {error}", *getattr(error, "__notes__", [])]))
        else:
            self._say(f"error: {type(error).__name__}: {error}")
            self._say("This is a bug in aligncut. Run the command again with -v and report what it prints.")


@contextlib.contextmanager
def repeat(action: Any, *, every: float) -> Iterator[None]:
    """Call `action` again and again from a thread until the block ends."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(every):
            action()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> str:
    """Align columns as plain text, which reads the same in a log and in a terminal."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *cells]) for i in range(len(header))]
    numeric = [
        bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        for i in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(parts).rstrip()

    lines = [line(header), line(["-" * width for width in widths]), *map(line, cells)]
    return "\n".join([title, *lines] if title else lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def readable_bytes(count: float) -> str:
    """Write a number of bytes as people do: 10.9 GB."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def readable_seconds(seconds: float) -> str:
    """Write a duration as people do: 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
