"""What `--basis` fixes: parameters, sample and solution are those of another eigs store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.params import EigsParams
from aligncut_cli.store.kinds.eigs import ORTHOGONALIZER, SOLVED, Eigs
from aligncut_cli.store.read import Store

if TYPE_CHECKING:
    from aligncut_cli.store.write import Writer

PARAMS = ("group", "n_eig", "n_sample", "sample", "roi", "top_channels", "orthogonalize", "centre", "fit")


def take_params(params: EigsParams, base: Store, aligned: Store | None) -> EigsParams:
    """Take over what a basis has fixed, and require the alignment that it was made with."""
    recorded = base.record["params"]
    before = [item for item in base.record["inputs"] if item["kind"] == "alignment"]
    if [item["digest"] for item in before] != ([] if aligned is None else [aligned.as_input.digest]):
        raise UsageError(
            f"{base.path} was made {'with' if before else 'without'} an alignment, and this run is not alike",
            do=f"Give --alignment {before[0]['path']}" if before else "Leave out --alignment.",
        )
    # What a basis of an earlier version does not record, it was made with the default of.
    return replace(params, **{name: recorded.get(name, getattr(EigsParams(), name)) for name in PARAMS})


def find_groups(base: Eigs, titles: Sequence[str]) -> list[int]:
    """Return where a basis has the graphs of these names."""
    known: list[str] = base.store.record["groups"]
    for title in titles:
        if title not in known:
            raise BadInput(f"{base.store.path} has no group {title!r} to extend", do=f"It has: {', '.join(known)}.")
    return [known.index(title) for title in titles]


def copy_solution(base: Eigs, titles: Sequence[str], writer: Writer, *, orthogonalize: bool) -> None:
    """Copy sample and solution of a basis into a store under construction; graphs are matched by name."""
    for group, theirs in enumerate(find_groups(base, titles)):
        for array in (*SOLVED, *((ORTHOGONALIZER,) if orthogonalize else ())):
            writer.write(array.at(), group, base.store.read(array.at(), theirs))
