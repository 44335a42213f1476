"""Runs any stage from Python as the command line does: same parameters, checks and errors; nothing is printed."""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from aligncut_cli import stages
from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.params import ApplyParams, RunOptions
from aligncut_cli.stages.response_paths import ResponsePaths, SubjectPaths
from aligncut_cli.store.apart import keep_apart
from aligncut_cli.store.run import Outcome

STAGES = sorted(
    file.parent.name
    for file in Path(stages.__file__).parent.glob("*/run.py")
    if file.parent.name not in ("inspect", "params")
)
"""Every folder of `aligncut_cli/stages` that writes something."""
OPTIONS = tuple(
    item.name for item in fields(RunOptions) if item.name not in ("output", "quiet", "verbose", "json", "typed")
)
PATHS = "paths"
"""What a stage calls the files of responses in its signature."""
RESPONSES = tuple(item.name for item in fields(SubjectPaths))
TEXT_INPUTS, MANY_INPUTS = ("segment", "decode"), ("extract", "segment", "decode", "report")
"""Stages whose inputs may be NAME=PATH, and those that take several."""


class SilentConsole(Console):
    """Prints nothing; what the reader should not miss becomes a Python warning."""

    def __init__(self) -> None:
        super().__init__(quiet=True)

    def warn(self, text: str) -> None:
        """Warn as Python does."""
        warnings.warn(text, stacklevel=2)

    def result(self, text: str) -> None:
        """Print nothing."""


def run(stage: str, inputs: Any, output: str | os.PathLike[str], **keywords: Any) -> Outcome:
    """Run a stage: `run("eigs", "f.zarr", "e.zarr", alignment="a.zarr", n_eig=10)`.

    stage    : the command's name
    inputs   : its input; a list where the command takes several
    output   : as -o
    keywords : the command's options with `_` for `-`, and its further inputs by name (alignment, masks, responses, ...)
    returns  : path, `complete` or `up to date` (or `planned` with dry_run=True), and the figures that --json prints
    raises   : as the command line reports: UsageError, BadInput, OutputInTheWay, OutOfResources
    """
    if stage not in STAGES:
        raise UsageError(f"there is no stage {stage!r}", do=f"The stages are: {', '.join(STAGES)}.")
    module = importlib.import_module(f"aligncut_cli.stages.{stage}.run")
    applies = stage == "align" and keywords.get("apply") is not None
    function: Callable[..., Outcome] = module.apply if applies else module.run
    signature = inspect.signature(function).parameters
    kind = ApplyParams if applies else getattr(module, str(signature["params"].annotation))
    options = RunOptions(output=Path(output).expanduser(), **_take(keywords, OPTIONS))
    chosen = {
        knob.name: _as_knob(keywords.pop(knob.name), repeated=isinstance(knob.default, tuple))
        for knob in fields(kind)
        if knob.name in keywords
    }
    further = {name: _as_path(value) for name, value in keywords.items()}
    positional, named = _place_inputs(stage, signature, further, applies=applies)
    first = _read_inputs(stage, inputs)
    outputs = [options.output, *([named["figures"]] if named.get("figures") else [])]
    keep_apart(outputs, _paths([first, *(value for name, value in further.items() if name != "figures")]))
    return function(first, *positional, kind(**chosen), options, SilentConsole(), **named)


def _take(keywords: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: keywords.pop(name) for name in names if name in keywords}


def _as_knob(value: Any, *, repeated: bool) -> Any:
    """Return a parameter's value; an option that may be given again takes a single value or a list of them."""
    if repeated:
        given = value if isinstance(value, list | tuple) else [value]
        return tuple(_as_knob(item, repeated=False) for item in given)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_path(value: Any) -> Any:
    """Return a path, or a list of them, with `~` as the home folder; None stays."""
    if isinstance(value, list | tuple):
        return [_as_path(item) for item in value]
    return Path(value).expanduser() if isinstance(value, str | os.PathLike) else value


def _read_inputs(stage: str, inputs: Any) -> Any:
    """Return the first argument of a stage's `run`."""
    given = inputs if isinstance(inputs, list | tuple) else [inputs]
    if stage in TEXT_INPUTS:
        return [os.fspath(item) for item in given]
    if stage in MANY_INPUTS:
        return _as_path(given)
    if len(given) != 1:
        raise UsageError(f"{stage} takes one input, not {len(given)}", do="Give further inputs by name.")
    return _as_path(given[0])


def _place_inputs(
    stage: str, signature: Mapping[str, inspect.Parameter], further: dict[str, Any], *, applies: bool
) -> tuple[list[Any], dict[str, Any]]:
    """Return what stands between the first input and the parameters, and what follows the console by name."""
    names = list(signature)
    middle = names[1 : names.index("params")]
    known = {*middle, *names[names.index("console") + 1 :]}
    if applies:
        known, middle = {"apply"}, ["apply"]
    elif PATHS in middle:
        known = (known - {"paths"}) | set(RESPONSES)
    unknown = sorted(set(further) - known)
    if unknown:
        raise UsageError(
            f"{stage} takes no {', '.join(unknown)}",
            do=f"Its further inputs are: {', '.join(sorted(known)) or 'none'}; its options: aligncut {stage} -h",
        )
    if PATHS in middle:
        found = {name: value for name, value in further.items() if name in RESPONSES and value is not None}
        if found and "responses" not in found:
            raise UsageError(f"{', '.join(found)} go with responses", do="Give responses too.")
        given = {name: value if isinstance(value, list) else [value] for name, value in found.items()}
        positional = [ResponsePaths.of(given) if given else None]
        return positional, {name: value for name, value in further.items() if name not in RESPONSES}
    missing = (
        [name for name in middle if name not in further and "None" not in str(signature[name].annotation)]
        if not applies
        else []
    )
    if missing:
        raise UsageError(f"{stage} needs {', '.join(missing)}", do=f"Give them by name: {missing[0]}=PATH.")
    named = {name: value for name, value in further.items() if name not in middle and value is not None}
    return [further.get(name) for name in middle], named


def _paths(values: Any) -> list[Path]:
    """Return all paths among inputs, those of NAME=PATH too."""
    if isinstance(values, list | tuple):
        return [path for value in values for path in _paths(value)]
    if not isinstance(values, str | Path):
        return []
    path = Path(values)
    return [path if path.exists() else Path(str(values).rpartition("=")[2])]
