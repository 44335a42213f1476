"""The runs that stand side by side: every source by every method, and the same on shuffled pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aligncut_cli.params import DecodeParams
from aligncut_cli.stages.decode.sources import Source

METHODS = {"ridge": ("ridge",), "towers": ("towers",), "both": ("ridge", "towers")}
SHUFFLED = "shuffled"


@dataclass(frozen=True)
class Run:
    """One way of decoding.

    source   : its number among the sources
    shuffled : whether it is the control, fitted to shuffled image-response pairs
    """

    name: str
    source: int
    method: str
    shuffled: bool


def list_runs(sources: Sequence[Source], params: DecodeParams) -> list[Run]:
    """Return every run, the real ones first."""
    found = []
    for shuffled in (False, True) if params.control == "shuffle" else (False,):
        for number, source in enumerate(sources):
            for method in METHODS[params.method]:
                name = f"{source.name} {method}" + (f" {SHUFFLED}" if shuffled else "")
                found.append(Run(name, number, method, shuffled))
    return found
