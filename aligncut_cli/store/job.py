"""What a worker attaches to: the stage as it was begun, with everything that was chosen, in one file of the work."""

from __future__ import annotations

import hashlib
import io
import pickle
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from aligncut_cli.errors import AlignCutError, UsageError
from aligncut_cli.machine import pinned_threads
from aligncut_cli.params import RunOptions
from aligncut_cli.store.files import fragment_of, sync
from aligncut_cli.store.phase import Stage
from aligncut_cli.store.provenance import Identity, installed_software
from aligncut_cli.store.resources import memory_limit
from aligncut_cli.store.run import Work

SAMPLE_OF_INPUTS = 3
"""Files of each input that a worker must see; one input may be 100,000 photos."""


class Superseded(AlignCutError):
    """The run that a worker computes for has ended, or another has taken its place."""


@dataclass(frozen=True)
class Job:
    """One run of a stage, as its first process has begun it.

    number   : of this run; another run of the same command has another one
    identity : without the inputs' files, which the first process watches alone
    options  : with the kind of device, threads and memory that were resolved
    build    : makes the stage
    settled  : see `Work.settle`
    threads  : of numerical libraries, the same for every worker, because sums depend on it
    software : versions of what computes
    """

    number: str
    identity: Identity
    options: RunOptions
    build: Callable[[Work], Stage]
    settled: Mapping[str, Any]
    threads: int
    software: Mapping[str, str]

    @classmethod
    def of(cls, work: Work, build: Callable[[Work], Stage]) -> Job:
        """Return the job of a run whose stage has been made here."""
        threads = pinned_threads()
        bare = [replace(item, files=()) for item in work.identity.inputs]
        options = replace(
            work.options,
            output=work.output.absolute(),
            overwrite=False,
            device=work.settled.get("device", "cpu"),
            workers=threads,
            max_memory=str(memory_limit(work.options)),
            scheduler=None,
            quiet=True,
            verbose=False,
        )
        return cls(
            number=secrets.token_hex(8),
            identity=replace(work.identity, inputs=bare),
            options=options,
            build=build,
            settled=dict(work.settled),
            threads=threads,
            software=installed_software(),
        )


class _Pickler(pickle.Pickler):
    """Makes paths absolute, because a worker runs in another folder."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, PurePath) and not value.is_absolute():
            return Path, (str(Path(value).absolute()),)
        return NotImplemented


def write_job(file: Path, job: Job) -> str:
    """Write a job whole, and return the SHA-256 of the file, by which workers know it."""
    content = io.BytesIO()
    _Pickler(content, protocol=5).dump(job)
    partial = fragment_of(file)
    partial.write_bytes(content.getvalue())
    sync(partial)
    partial.replace(file)
    return hashlib.sha256(content.getvalue()).hexdigest()


def read_job(file: Path, digest: str) -> Job:
    """Read a job; a file of another digest is not looked into.

    raises : Superseded, UsageError
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Superseded(f"{file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise Superseded(f"{file} is another run's")
    job: Job = pickle.loads(content)
    if job.software != installed_software():  # a worker that came after the others were asked
        raise UsageError(
            f"a worker on {socket.gethostname()} has other versions than the process that began this run",
            do="Install the same versions for all, then type the same command again.",
        )
    return job


def sample_inputs(identity: Identity) -> list[str]:
    """Return a few files of each input, as absolute paths."""
    return [str(file.absolute()) for item in identity.inputs for file in list(item.files)[:SAMPLE_OF_INPUTS]]
