"""The eigs stores that are segmented and scored, each with a name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aligncut_cli.store.read import Store, open_store, read_piped_path


@dataclass(frozen=True)
class Run:
    """One eigs store to score; runs of one name are repetitions, say with other seeds."""

    name: str
    store: Store


def open_run(argument: str) -> Run:
    """Open an eigs store given as PATH, NAME=PATH or `-`; without a name it is called as its file."""
    name, equals, path = argument.partition("=")
    if not equals or "/" in name or Path(argument).exists():
        name, path = "", argument
    found = read_piped_path(path)
    return Run(name or found.name.removesuffix(".zarr"), open_store(found, "eigs"))
