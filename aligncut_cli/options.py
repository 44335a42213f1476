"""Turns a parameters dataclass into command-line options, and adds the flags that every command shares."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import tomllib
import typing
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.knobs import StageParams, flag_of
from aligncut_cli.params import RunOptions

RUN_PANEL = "How it runs"


def _run_flag(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=RUN_PANEL, **more)


SHARED_FLAGS: dict[str, tuple[Any, Any]] = {
    "overwrite": (bool, _run_flag("--overwrite", help="Replace the output once the new one is complete.")),
    "dry_run": (bool, _run_flag("--dry-run", "-n", help="Say what would be done, and do nothing.")),
    "device": (str, _run_flag("--device", help="Where to compute: auto, cpu, cuda or cuda:N.", metavar="NAME")),
    "batch_size": (int | None, _run_flag("--batch-size", min=1, help="Images per step of `extract`.", metavar="N")),
    "workers": (
        int | None,
        _run_flag("--workers", min=0, help="Processes that decode images; threads of `segment`.", metavar="N"),
    ),
    "max_memory": (str | None, _run_flag("--max-memory", help="Memory to stay under, such as 8G.", metavar="SIZE")),
    "scheduler": (
        str | None,
        _run_flag(
            "--scheduler",
            help="Workers for independent blocks: file:S.json or tcp://HOST:PORT of Dask, or local:N.",
            metavar="WHERE",
        ),
    ),
    "quiet": (bool, _run_flag("--quiet", "-q", help="Say nothing but warnings and errors.")),
    "verbose": (bool, _run_flag("--verbose", "-v", help="Say more, and show tracebacks.")),
    "json": (bool, _run_flag("--json", help="Print the result as JSON.")),
}
WIDEST_CHOICE = 10
"""Characters of choices beside an option; longer ones stand in its text, or the column would cut options' names."""
TALKING_FLAGS = ("quiet", "verbose", "json")
RUN_FLAGS = frozenset("--" + name.replace("_", "-") for name in SHARED_FLAGS)
RESERVED = ("context", "params", "options", "console")


TYPED = "aligncut.typed"
"""Where a context keeps the command line as it was typed."""


class OnceCommand(TyperCommand):
    """A command that refuses an option of one value which is given twice, where the parser would drop the first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as usual, and look at what was given.

        raises : UsageError that names the option
        """
        ctx.meta[TYPED] = ("aligncut", str(ctx.info_name), *args)
        rest = super().parse_args(ctx, list(args))
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for parameter, count in Counter(given).items():
            single = parameter.param_type_name == "option" and not getattr(parameter, "multiple", False)
            switch = getattr(parameter, "is_flag", False) and not parameter.secondary_opts
            if single and not switch and count > 1:
                flag = max(parameter.opts, key=len)
                raise UsageError(
                    f"{flag} is given {count} times, and takes one value", do=f"Leave all but one {flag} out."
                )
        return rest


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Use a TOML file's values as this command's defaults; options on the command line win.

    The file holds option names (`n_eig = 20`), at the top or in a table named after the command, so that one
    file can configure a whole pipeline: what stands at the top applies to every command that has such an option.
    """
    if path is None or context.resilient_parsing:
        return path
    path = path.expanduser()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise BadInput(f"no such file: {path}", do="Give --config the path of a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} is not a readable TOML file: {error}") from error
    command = context.info_name or ""
    table = content.get(command, {})
    if not isinstance(table, dict):
        raise BadInput(f"{path}: [{command}] is not a table")
    parameters = {str(parameter.name): parameter for parameter in context.command.params}
    known = parameters.keys() - {"config", "help"}
    elsewhere = _options_of_all(context) - known
    top = {key: value for key, value in content.items() if not isinstance(value, dict)}
    values = {key: value for key, value in top.items() if key.replace("-", "_") not in elsewhere} | table
    defaults = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError(f"{path}: `{command}` has no option {key!r}", why=f"It takes: {', '.join(sorted(known))}.")
        many = getattr(parameters[name], "multiple", False) or getattr(parameters[name], "nargs", 1) == -1
        defaults[name] = [value] if many and not isinstance(value, list) else value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _options_of_all(context: typer.Context) -> set[str]:
    """Return the names of the options of all commands."""
    group = context.parent.command if context.parent is not None else context.command
    commands = getattr(group, "commands", {}).values()
    return {str(parameter.name) for command in commands for parameter in command.params}


def flags_given(context: typer.Context) -> list[str]:
    """Return the options that stand on this command's line, by their long names; not those of --config."""
    given = []
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is not None and source.name == "COMMANDLINE" and parameter.param_type_name == "option":
            given.append(max(parameter.opts, key=len))
    return given


def expand_home(value: Any) -> Any:
    """Return an option's value with `~` as the home folder, where a path or the path of NAME=PATH begins with it.

    The shell does this for plain words only, not after `=`, in quotes or in a TOML file.
    """
    if isinstance(value, Path):
        return Path(expand_home(str(value)))
    if isinstance(value, list | tuple):
        return type(value)(expand_home(item) for item in value)
    if not isinstance(value, str):
        return value
    name, equals, path = value.rpartition("=") if "=~" in value else ("", "", value)
    return name + equals + (os.path.expanduser(path) if path.startswith("~") else path)


def _option(name: str, item: dataclasses.Field[Any], hint: Any) -> Any:
    """Make the typer option of one knob."""
    metadata = item.metadata
    flag = metadata["flag"] or flag_of(item)
    more = {key: metadata[key] for key in ("min", "max") if metadata[key] is not None}
    if hint not in (bool,) and typing.get_origin(hint) is not typing.Literal:
        more["metavar"] = "N" if hint in (int, float, int | None, float | None, tuple[int, ...]) else "TEXT"
    if len(more) == 3:  # both bounds: the parameters themselves check them, and typer's way of saying them is wide
        more = {"metavar": f"{more['min']}..{more['max']}"}
    text = metadata["help"]
    if typing.get_origin(hint) is typing.Literal and len("|".join(typing.get_args(hint))) > WIDEST_CHOICE:
        more["metavar"] = "WORD"
        text += f" One of {', '.join(typing.get_args(hint))}."
    return typer.Option(flag, help=text, **more)


def _annotation(hint: Any) -> Any:
    """Return the type that typer parses: a tuple is a repeated option."""
    return list[typing.get_args(hint)[0]] if typing.get_origin(hint) is tuple else hint  # type: ignore[misc]


def takes(params: type[StageParams] | None = None, *, output: str | None = None) -> Callable[..., Any]:
    """Give a command function the options of a parameters dataclass and the shared flags.

    The wrapped function has keyword parameters `params` (where a dataclass is given) and `options`
    (RunOptions); all its other parameters are typer's as usual. `output` is the help of -o, where the
    command writes something.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            parameter
            for parameter in inspect.signature(function, eval_str=True).parameters.values()
            if parameter.name not in RESERVED
        ]
        wants_context = "context" in inspect.signature(function).parameters
        added: list[inspect.Parameter] = []

        def add(name: str, annotation: Any, option: Any, default: Any = inspect.Parameter.empty) -> None:
            added.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[annotation, option], default=default
                )
            )

        if output is not None:
            add("output", Path, typer.Option("--output", "-o", help=output, show_default=False))
        knobs = {} if params is None else {item.name: item for item in dataclasses.fields(params)}
        hints = {} if params is None else typing.get_type_hints(params)
        for name, item in knobs.items():
            default = list(item.default) if isinstance(item.default, tuple) else item.default
            add(name, _annotation(hints[name]), _option(name, item, hints[name]), default)
        run_defaults = {item.name: item.default for item in dataclasses.fields(RunOptions)}
        for name, (annotation, option) in SHARED_FLAGS.items():
            if output is None and name not in TALKING_FLAGS:
                continue
            add(name, annotation, option, run_defaults[name])
        add(
            "config",
            Path | None,
            _run_flag(
                "--config",
                help="TOML file with any of these options; `inspect --params` prints one.",
                is_eager=True,
                callback=read_config,
                metavar="FILE",
            ),
            None,
        )

        @functools.wraps(function)
        def command(*, context: typer.Context, **values: Any) -> Any:
            values.pop("config")
            values = {name: expand_home(value) for name, value in values.items()}
            given = {name: values.pop(name) for name in SHARED_FLAGS if name in values}
            given["output"] = values.pop("output", Path())
            keywords: dict[str, Any] = {"options": RunOptions(**given, typed=context.meta.get(TYPED, ()))}
            if wants_context:
                keywords["context"] = context
            if params is not None:
                chosen = {name: values.pop(name) for name in knobs}
                chosen = {name: tuple(v) if isinstance(v, list) else v for name, v in chosen.items()}
                keywords["params"] = params(**chosen)
            return function(**values, **keywords)

        added.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
        command.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *added]}
        return command

    return decorate
