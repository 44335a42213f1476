"""What `--basis` fixes: parameters, fitted nodes, their places and the colours are those of another tsne store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aligncut_cli.errors import BadInput
from aligncut_cli.params import TsneParams
from aligncut_cli.store.kinds.tsne import SAMPLE, Tsne
from aligncut_cli.store.read import Store

if TYPE_CHECKING:
    from aligncut_cli.store.write import Writer

PARAMS = ("dims", "n_sample", "perplexity", "iterations", "engine", "clip")


def take_params(params: TsneParams, base: Store) -> TsneParams:
    """Take over what a basis has fixed."""
    return replace(params, **{name: base.record["params"][name] for name in PARAMS})


def require_same_space(source: Store, base: Tsne, titles: Sequence[str]) -> None:
    """Require that a basis was made of the same eigenvectors that an eigs store extends, and has maps of these names.

    raises : BadInput, naming what is missing
    """
    extended = [item["digest"] for item in source.record["inputs"] if item["kind"] == "eigs"]
    theirs = [item["digest"] for item in base.store.record["inputs"] if item["kind"] == "eigs"]
    if not set(theirs[:1]) & {source.record["digest"], *extended}:
        raise BadInput(
            f"{base.store.path} was made of other eigenvectors than {source.path} extends",
            do="Make the eigs store with --basis the one that the tsne store was made of.",
        )
    missing = [title for title in titles if title not in base.store.record["groups"]]
    if missing:
        raise BadInput(f"{base.store.path} has no group {missing[0]!r} to extend")


def copy_fit(base: Tsne, titles: Sequence[str], writer: Writer) -> None:
    """Copy the fitted nodes and their places into a store under construction; maps are matched by name."""
    known: list[str] = base.store.record["groups"]
    for group, title in enumerate(titles):
        for array in SAMPLE:
            writer.write(array.at(), group, base.store.read(array.at(), known.index(title)))
