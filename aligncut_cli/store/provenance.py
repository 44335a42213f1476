"""What makes a result: stage, parameters and inputs, their digest, and the record kept in every output."""

from __future__ import annotations

import datetime
import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aligncut_cli
from aligncut_cli.digests import digest_of
from aligncut_cli.errors import BadInput
from aligncut_cli.store.validate import AGAIN, SCHEMA, check_record, read_json

STORE_RECORD = "zarr.json"
FOLDER_RECORD = "aligncut.json"
KEY = "aligncut"
RECORDED_SOFTWARE = ("torch", "timm", "zarr", "numpy", "scipy", "scikit-learn", "faiss-gpu", "faiss-cpu", "pillow")


@dataclass(frozen=True)
class InputRecord:
    """One input of a stage: where it was, what it is, and its digest.

    files : those that must stay as they are while the stage runs; not part of the record
    """

    path: str
    kind: str
    digest: str
    files: Sequence[Path] = ()

    def record(self) -> dict[str, str]:
        """Return what is kept of it."""
        return {"path": self.path, "kind": self.kind, "digest": self.digest}


@dataclass(frozen=True)
class Identity:
    """Everything that determines a stage's result; two runs with one digest give one result.

    stage   : the subcommand
    version : of the stage's algorithm; raised when the same parameters give another result
    kind    : of the output: features, eigs, ..., or `folder`
    params  : as JSON values
    inputs  : in the order that matters
    extra   : further causes by name, such as the identity of weights
    loose   : parameters that are recorded but are no cause: `extra` or the inputs say the same by content
    """

    stage: str
    version: int
    kind: str
    params: Mapping[str, Any]
    inputs: Sequence[InputRecord] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    loose: Sequence[str] = ()

    def causes(self) -> dict[str, Any]:
        """Return what the digest is made of; input paths are not part of it."""
        return {
            "stage": self.stage,
            "version": self.version,
            "params": {name: value for name, value in self.params.items() if name not in self.loose},
            "inputs": [{"kind": item.kind, "digest": item.digest} for item in self.inputs],
            "extra": dict(self.extra),
        }

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON of the causes."""
        return digest_of(self.causes())

    def record(self) -> dict[str, Any]:
        """Return the record that is kept in the output."""
        return {
            "kind": self.kind,
            "schema": SCHEMA,
            "stage": self.stage,
            "version": self.version,
            "params": dict(self.params),
            "inputs": [item.record() for item in self.inputs],
            "extra": dict(self.extra),
            "digest": self.digest,
            "seed": self.params.get("seed"),
        }

    def differences(self, record: Mapping[str, Any]) -> list[str]:
        """Name each cause in which an existing record differs from this run, as `name: theirs -> ours`."""
        if record.get("stage") != self.stage:
            return [f"stage: {record.get('stage')} -> {self.stage}"]
        lines = []
        if record.get("version") != self.version:
            lines.append(f"stage version: {record.get('version')} -> {self.version}")
        for title, loose in (("params", self.loose), ("extra", ())):
            theirs, ours = record.get(title, {}), getattr(self, title)
            names = [*ours, *(key for key in theirs if key not in ours)]
            changed = [name for name in names if name not in loose and theirs.get(name) != ours.get(name)]
            lines += [f"{name}: {theirs.get(name)} -> {ours.get(name)}" for name in changed]
        theirs = [(item.get("kind"), item.get("digest")) for item in record.get("inputs", [])]
        ours = [(item.kind, item.digest) for item in self.inputs]
        if theirs != ours:
            before = ", ".join(str(item.get("path")) for item in record.get("inputs", [])) or "none"
            lines.append(f"inputs: {before} -> {', '.join(item.path for item in self.inputs) or 'none'}")
            if before == ", ".join(item.path for item in self.inputs):
                lines[-1] = f"inputs: the content of {before} has changed"
        return lines


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record of a finished store or folder, or None where there is none; reads one small file.

    raises : BadInput where it is not what a record must be
    """
    for name in (STORE_RECORD, FOLDER_RECORD):
        try:
            content = read_json(path / name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if name == STORE_RECORD:
            content = content.get("attributes", {})
            if not isinstance(content, dict):
                raise BadInput(f"{path / name}: its attributes are no table", do=AGAIN)
        if KEY in content:
            return check_record(content[KEY], path / name)
    return None


def record_file(path: Path) -> Path:
    """Return the file that holds the record of a finished store or folder."""
    return path / (STORE_RECORD if (path / STORE_RECORD).exists() else FOLDER_RECORD)


def installed_software() -> dict[str, str]:
    """Return the versions of what computes; reads package metadata, imports nothing."""
    versions = {"aligncut": aligncut_cli.__version__}
    for name in RECORDED_SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
