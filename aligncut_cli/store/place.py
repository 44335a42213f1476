"""The place of work beside an output, `OUT.wip`: its lock, what in it counts, and how it is cleared.

Three rules, each kept here alone, make every moment safe to be killed at:
- without `record.json` nothing in a place of work counts: the record is written last and removed first;
- markers count only beside the unfinished output that they speak of, and with the record of this very run;
- what we did not make is neither cleared nor taken over: the command refuses, and names it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aligncut_cli.console import repeat
from aligncut_cli.errors import BadInput, OutputInTheWay
from aligncut_cli.store.files import FRAGMENT, remove, sync, walk_files, write_json
from aligncut_cli.store.validate import read_json

RECORD, LOCK, FINISHING = "record.json", "lock", "finishing.json"
JOB, CREW = "job.pickle", "crew.json"
"""What workers on other machines attach to, and who has done how much."""
FOLDERS = ("done", "store", "scratch", "replaced")
HOLDER, BEATING = "process ", "beating"
# Seconds without a finished block after which a process on another host is taken for dead, where locks cannot tell.
SILENT = 3600.0
# Seconds between the beats of a process that has workers elsewhere, and without one after which it is taken for dead:
# locks do not reach other hosts on every file system.
BEAT, MISSED = 10.0, 60.0
# A file of this age in seconds that was never finished is nobody's; before, a worker may still be writing it.
ABANDONED = 60.0
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def wip_path(output: Path) -> Path:
    """Return where unfinished work on an output lives."""
    return output.with_name(output.name + ".wip")


class Place:
    """The place of work on one output."""

    def __init__(self, output: Path) -> None:
        self.output, self.path = output, wip_path(output)
        self.staging, self.scratch = self.path / "store", self.path / "scratch"
        self.replaced, self.markers = self.path / "replaced", self.path / "done"
        self._lock: int | None = None

    # looking

    def exists(self) -> bool:
        """Return whether something stands there."""
        return os.path.lexists(self.path)

    def record(self) -> dict[str, Any] | None:
        """Return the record of the run whose work this is, None where there is none that can be used."""
        try:
            record = read_json(self.path / RECORD)
        except (BadInput, OSError):
            return None
        wanted = {"digest": str, "stage": str, "params": dict, "extra": dict, "inputs": list}
        good = all(isinstance(record.get(key), kind) for key, kind in wanted.items())
        return record if good and all(isinstance(item, dict) for item in record["inputs"]) else None

    def require_ours(self) -> None:
        """Refuse a place of work that another made, or that holds what another put there."""
        if self.path.is_symlink() or not self.path.is_dir():
            raise OutputInTheWay(
                f"{self.path} stands where unfinished work would go, and is no folder of aligncut's",
                do="Move it away, or give another path with -o.",
            )
        names = sorted(entry.name for entry in self.path.iterdir())
        foreign = [name for name in names if not self._is_own(name)]
        if foreign or (names and not {RECORD, LOCK} & set(names)):
            raise OutputInTheWay(
                f"{self.path} stands where unfinished work would go, and aligncut did not make it: "
                f"it holds {', '.join((foreign or names)[:3])}",
                do="It is left untouched. Move it away, or give another path with -o.",
            )

    def _is_own(self, name: str) -> bool:
        path = self.path / name
        if path.is_symlink():
            return False
        if name == JOB:
            return path.is_file()
        if name == LOCK:
            return path.is_file() and (not path.stat().st_size or path.read_bytes().startswith(HOLDER.encode()))
        return path.is_dir() if name in FOLDERS else path.is_file() and name.endswith((".json", FRAGMENT))

    def is_resumable(self, digest: str) -> bool:
        """Return whether the markers speak of this run, and of the unfinished output that is there."""
        record = self.record()
        if record is None or record["digest"] != digest or self.staging.is_symlink() or not self.staging.is_dir():
            return False
        try:
            finishing = read_json(self.path / FINISHING)
        except FileNotFoundError:
            return True
        except (BadInput, OSError):
            return False
        return finishing == _identify(self.staging)  # otherwise it is the output that has been replaced

    def has_finished_blocks(self) -> bool:
        """Return whether there is a marker, beside an output that it can speak of."""
        with contextlib.suppress(OSError):
            return self.staging.is_dir() and next(self.markers.iterdir(), None) is not None
        return False

    # locking

    def holder(self) -> str | None:
        """Return who works here at this moment, None where nobody does; nothing is written."""
        if self._lock is not None:
            return None
        try:
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            return None if _try_lock(handle) else _read_holder(handle)
        finally:
            os.close(handle)

    def lock(self) -> None:
        """Hold an advisory lock that the system releases when this process ends, however it ends.

        raises : OutputInTheWay where another process holds it
        """
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
            except FileNotFoundError:
                continue
            if not _try_lock(handle):
                holder = _read_holder(handle)
                os.close(handle)
                raise self.busy(holder)
            try:
                same = os.path.samestat(os.fstat(handle), os.stat(self.path / LOCK))
            except FileNotFoundError:
                same = False
            if same:
                break
            os.close(handle)
        self._lock = handle
        self._write_holder()

    def _write_holder(self, *words: str) -> None:
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            text = ", ".join((f"{HOLDER}{os.getpid()} on {socket.gethostname()}", *words))
            os.pwrite(self._lock, f"{text}\n".encode(), 0)

    def busy(self, holder: str) -> OutputInTheWay:
        """Return the error that says who works here."""
        return OutputInTheWay(
            f"{self.output} is being written by another process ({holder or 'unknown'})",
            do="Wait for it, or give another path with -o.",
        )

    def beat(self) -> None:
        """Show other hosts that this process lives, where locks do not reach them."""
        if self._lock is not None:
            os.utime(self._lock)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Beat every few seconds meanwhile, whatever the blocks take, and say so in the lock."""

        def beat() -> None:
            with contextlib.suppress(OSError):
                self.beat()

        self._write_holder(BEATING)
        try:
            with repeat(beat, every=BEAT):
                yield
        finally:
            self._write_holder()

    def unlock(self) -> None:
        """Let others work here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # writing

    def begin(self, record: Mapping[str, Any]) -> None:
        """Clear what another run left, and begin with an empty output; call it with the lock held."""
        self.clear(keep_lock=True)
        self.staging.mkdir()
        write_json(self.path / RECORD, record)
        sync(self.path)

    def drop_fragments(self, *, every: bool) -> None:
        """Remove what a killed process was in the middle of writing; folders may be called so, and stay.

        every : also what was written to a moment ago, which a live worker of that process may be about to finish
        """
        for entry in walk_files(self.path):
            if entry.name.endswith(FRAGMENT) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    if every or time.time() - entry.stat(follow_symlinks=False).st_mtime > ABANDONED:
                        os.unlink(entry.path)

    def void(self) -> None:
        """Let nothing of this work count any more."""
        remove(self.path / RECORD)
        sync(self.path)

    def announce_finish(self) -> None:
        """Note which folder is the new output, so that it is never taken for the one that it replaces."""
        write_json(self.path / FINISHING, _identify(self.staging))
        sync(self.path)

    def clear(self, *, keep_lock: bool = False) -> None:
        """Remove the place of work, the record first; what is not ours stays."""
        self.void()
        for name in sorted(os.listdir(self.path)):
            if name != LOCK and self._is_own(name):
                remove(self.path / name)
        if not keep_lock:
            remove(self.path / LOCK)
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def recover(self) -> None:
        """Put back an output that was set aside by a process which ended before the new one took its name."""
        if os.path.lexists(self.output) or not self.replaced.is_dir() or not self.staging.is_dir():
            return
        self.lock()
        try:
            if not os.path.lexists(self.output):
                self.replaced.rename(self.output)
        finally:
            self.unlock()


def _identify(folder: Path) -> dict[str, int]:
    status = folder.stat()
    return {"device": status.st_dev, "inode": status.st_ino}


def _try_lock(handle: int) -> bool:
    """Lock a file; where the file system has no locks, ask whether the process that its text names still lives."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return not _is_alive(_read_holder(handle), silent=time.time() - os.fstat(handle).st_mtime)
    holder, silent = _read_holder(handle), time.time() - os.fstat(handle).st_mtime
    return BEATING not in holder or silent > MISSED or _host_of(holder) == socket.gethostname()


def _read_holder(handle: int) -> str:
    return os.pread(handle, 200, 0).decode(errors="replace").strip()


def _host_of(holder: str) -> str:
    return "".join(holder.split()[3:4]).rstrip(",")


def _is_alive(holder: str, silent: float) -> bool:
    """Return whether a process may still run; one on another host may if it finished a block of late.

    silent : seconds since the lock's file was touched
    """
    words = holder.split()
    if len(words) < 4 or not words[1].isdigit() or int(words[1]) == os.getpid():
        return False
    if _host_of(holder) != socket.gethostname():
        return silent < (MISSED if BEATING in holder else SILENT)
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
