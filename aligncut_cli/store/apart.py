"""Inputs and outputs of one command must not lie in each other, or one would be replaced with the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.store.place import wip_path
from aligncut_cli.store.provenance import read_record


def keep_apart(outputs: Sequence[Path], inputs: Sequence[Path], *, strict: bool = False) -> None:
    """Refuse outputs that are, hold or lie in an input, or each other.

    An output may lie in an input that is an ordinary folder, such as the one of the responses: what aligncut made
    is no part of what it holds. It may not lie in a store.

    strict : refuse outputs in ordinary folders too
    raises : UsageError
    """
    sources = [(path, path.resolve()) for path in inputs]
    for number, output in enumerate(outputs):
        target = output.resolve()
        for path, source in sources:
            for place in (target, wip_path(target)):
                if place == source or place in source.parents:
                    verb = "is" if place == source else "lies in"
                    raise UsageError(f"the input {path} {verb} the output {output}", do="Give another -o.")
            if source in target.parents and (strict or _is_output(source)):
                raise UsageError(f"the output {output} lies in the input {path}", do="Give another -o.")
        for other in outputs[number + 1 :]:
            beside = other.resolve()
            if {beside, wip_path(beside), *beside.parents} & {target, wip_path(target)} or beside in target.parents:
                raise UsageError(f"the outputs {output} and {other} lie in each other", do="Give them apart.")


def _is_output(folder: Path) -> bool:
    try:
        return read_record(folder) is not None
    except (BadInput, OSError):
        return True
