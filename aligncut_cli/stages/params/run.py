"""The chain of commands that led to a store, read from records alone, as TOML and as a paragraph of methods."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligncut_cli.errors import BadInput
from aligncut_cli.stages.params.methods import describe_step
from aligncut_cli.stages.params.paper import find_deviations
from aligncut_cli.stages.toml import toml_lines, toml_value
from aligncut_cli.store.provenance import read_record

OUTSIDE = ("images", "responses", "masks")
"""Kinds of inputs that no command of ours made."""


@dataclass(frozen=True)
class Step:
    """One command of the chain: where its output is, and the record there."""

    path: str
    record: Mapping[str, Any]

    @property
    def command(self) -> str:
        """Return the command line as it was typed; empty where it was run from Python or by an older version."""
        return shlex.join(self.record.get("runtime", {}).get("typed", []))

    def as_record(self) -> dict[str, Any]:
        """Return what is printed of it beside parameters, deviations and inputs."""
        record = self.record
        runtime = {key: record.get("runtime", {}).get(key) for key in ("platform", "device", "seconds", "finished")}
        return {
            "stage": record["stage"],
            "output": self.path,
            "command": self.command or None,
            "kind": record["kind"],
            "version": record["version"],
            "digest": record["digest"],
            "controls": record.get("controls") or None,
            "software": record.get("software"),
            "runtime": {key: value for key, value in runtime.items() if value is not None} or None,
        }

    @property
    def inputs(self) -> list[Mapping[str, str]]:
        """Return path, kind and digest of every input."""
        return list(self.record["inputs"])

    @property
    def deviations(self) -> dict[str, str]:
        """Return what differs from the paper, by parameter."""
        return find_deviations(self.record)


@dataclass(frozen=True)
class Chain:
    """Every command that led to some stores, each after those that it read from.

    lost : inputs that are no longer where they were, or have been made anew since
    """

    steps: Sequence[Step]
    lost: Sequence[Mapping[str, str]]

    def describe_methods(self) -> str:
        """Return the paragraph of methods, and after it what is lost."""
        parts = [text for step in self.steps for text in describe_step(step.record, step.deviations)]
        software = self.steps[-1].record.get("software", {})
        used = ", ".join(f"{name} {version}" for name, version in software.items() if name != "aligncut")
        if software:
            parts.append(f"All of this was computed by aligncut {software.get('aligncut', '?')} ({used}).")
        if self.lost:
            paths = ", ".join(item["path"] for item in self.lost)
            parts.append(f"[What led to {paths} is not known: it is not there any more, or was made anew since.]")
        return " ".join(parts)

    def as_record(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        steps = [
            {
                **step.as_record(),
                "params": dict(step.record["params"]),
                "deviations": step.deviations,
                "inputs": [dict(item) for item in step.inputs],
            }
            for step in self.steps
        ]
        return {"methods": self.describe_methods(), "steps": steps, "lost": [dict(item) for item in self.lost]}


def collect_chain(stores: Sequence[Path]) -> Chain:
    """Follow the inputs of stores and output folders back to photos, responses and masks.

    An input that was moved is looked for beside the output that was made of it, by its name and digest.

    raises : BadInput where a path is no finished output
    """
    steps: dict[str, Step] = {}
    lost: dict[str, Mapping[str, str]] = {}

    def follow(path: Path, record: Mapping[str, Any]) -> None:
        if record["digest"] in steps:
            return
        for item in record["inputs"]:
            if item["kind"] in OUTSIDE:
                continue
            found = _find_input(item, beside=path)
            if found is None:
                lost[item["digest"]] = item
            else:
                follow(*found)
        steps[record["digest"]] = Step(str(path), record)

    for store in stores:
        record = read_record(store)
        if record is None:
            raise BadInput(f"{store} is not an aligncut store", do="Give the path of a finished store or folder.")
        follow(store.resolve(), record)
    return Chain(list(steps.values()), list(lost.values()))


def _find_input(item: Mapping[str, str], *, beside: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """Return where an input is and its record, if it still is the one that was read."""
    recorded = Path(item["path"])
    for path in (recorded, beside.parent / recorded.name):
        try:
            record = read_record(path)
        except (BadInput, OSError):
            continue
        if record is not None and record["digest"] == item["digest"]:
            return path, record
    return None


def as_toml(chain: Chain) -> str:
    """Write a chain as TOML: the paragraph, then a table for every step in order."""
    return "\n".join(_toml_chain(chain))


def _toml_chain(chain: Chain) -> Iterator[str]:
    yield f"methods = {toml_value(chain.describe_methods())}"
    record = chain.as_record()
    for step in record["steps"]:
        params, deviations, inputs = (step.pop(name) for name in ("params", "deviations", "inputs"))
        yield from ["", "[[steps]]", *toml_lines(step)]
        yield from ["", "[steps.params]", *toml_lines(params)]
        yield from ["", "[steps.deviations]", *toml_lines(deviations)] if deviations else []
        for item in inputs:
            yield from ["", "[[steps.inputs]]", *toml_lines(item)]
    for item in record["lost"]:
        yield from ["", "[[lost]]", *toml_lines(item)]
