"""The command line: one short command per stage; parses, calls the stage, prints its result."""

from __future__ import annotations

import errno
import functools
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from aligncut_cli import __version__
from aligncut_cli.console import Console, readable_bytes
from aligncut_cli.errors import AlignCutError, BadInput, OutOfResources, Stopped
from aligncut_cli.options import takes
from aligncut_cli.params import EigsParams, ExtractParams, RenderParams, RunOptions, TsneParams
from aligncut_cli.store.read import read_piped_path
from aligncut_cli.store.run import Outcome

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
)

FEATURES = Annotated[str, typer.Argument(metavar="FEATURES", help="Features store, or - to read its path from a pipe.")]
EIGS = Annotated[str, typer.Argument(metavar="EIGS", help="Eigs store, or - to read its path from a pipe.")]
TSNE = Annotated[str, typer.Argument(metavar="TSNE", help="Tsne store, or - to read its path from a pipe.")]
ALIGNMENT = Annotated[
    Path | None,
    typer.Option("--alignment", metavar="STORE", help="Map features to the universal space while reading them."),
]


def main() -> NoReturn:
    """Run the command line; every error becomes a message and an exit code here."""
    signal.signal(signal.SIGTERM, _stop)
    console = Console(verbose="-v" in sys.argv or "--verbose" in sys.argv)
    try:
        app()
    except Exception as error:
        sys.exit(report_failure(error, console))
    sys.exit(0)


def report_failure(error: BaseException, console: Console) -> int:
    """Say what went wrong, and return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        done = "; ".join(getattr(error, "__notes__", []))
        console.warn(f"stopped{f' ({done})' if done else ''}. The same command goes on from there.")
        return 130
    if isinstance(error, BrokenPipeError):
        return 0
    known = _as_known_error(error)
    console.error(known)
    return known.exit_code if isinstance(known, AlignCutError) else 1


def _as_known_error(error: BaseException) -> BaseException:
    """Turn the system's errors into ours where a user can act on them."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfResources(
            f"the disk is full: {error.filename or error}",
            do="What is finished is kept. Free some space, then type the same command again.",
        )
    if isinstance(error, PermissionError):
        return BadInput(f"no permission: {error.filename or error}", do="Give a path that you may read and write.")
    text = str(error)
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    ):
        return OutOfResources(
            f"memory ran out: {text.splitlines()[0] if text else type(error).__name__}",
            do="What is finished is kept. Type the same command again with a smaller --batch-size or --n-sample.",
        )
    return error


def _stop(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped("stopped by SIGTERM", do="What is finished is kept; the same command goes on from there.")


def show(outcome: Outcome, options: RunOptions, console: Console) -> None:
    """Print a stage's result: its path, or JSON; a dry run prints the plan."""
    if options.json:
        value = {"output": str(outcome.path), "state": outcome.state, **outcome.summary}
        console.result_json(outcome.plan if outcome.plan is not None else value)
    elif outcome.plan is not None:
        console.result(format_plan(outcome.plan))
    else:
        if outcome.state == "up to date":
            console.note(f"{outcome.path} is up to date")
        console.result(str(outcome.path))


def format_plan(plan: Any) -> str:
    """Write a dry run's plan in lines."""
    lines = [f"output          {plan['output']}"]
    for phase, blocks in plan["blocks"].items():
        lines.append(f"{phase:<15} {blocks['done']:,} blocks done, {blocks['pending']:,} pending")
    lines.append(f"to write        {readable_bytes(plan['bytes_to_write'])}")
    lines.append(f"memory          {readable_bytes(plan['memory'])}")
    known = {"output", "blocks", "bytes_to_write", "memory", "differs"}
    lines += [f"{key:<15} {value}" for key, value in plan.items() if key not in known]
    if plan["differs"]:
        lines.append("stands in the way, with other parameters (--overwrite replaces it):")
        lines += [f"  {line}" for line in plan["differs"]]
    return "\n".join(lines)


def stage(function: Callable[..., Any]) -> Callable[..., None]:
    """Run a command's body, which returns an Outcome, with a console of its own, and show what came of it."""

    @functools.wraps(function)
    def command(**values: Any) -> None:
        options: RunOptions = values["options"]
        console = Console(quiet=options.quiet, verbose=options.verbose)
        try:
            show(function(**values, console=console), options, console)
        except KeyboardInterrupt as error:  # typer would end here without a word
            raise typer.Exit(report_failure(error, console)) from error

    return command


def _version(asked: bool) -> None:
    if asked:
        print(f"aligncut {__version__}")
        raise typer.Exit


@app.callback()
def aligncut(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Find visual concepts shared by deep networks.

    Stages are chained by the stores they write; each can be rerun alone and goes on where it stopped:

    [bold]aligncut extract photos -o f.zarr | aligncut eigs - -o e.zarr | aligncut tsne - -o t.zarr[/bold]
    """


@app.command(rich_help_panel="Stages")
@takes(ExtractParams, output="Features store to write.")
@stage
def extract(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="A folder, images, or a .txt file that lists them.")
    ],
    *,
    params: ExtractParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Save the attention features of every layer of several ViTs.

    Example: [bold]aligncut extract photos -o f.zarr --model clip --model dino[/bold]

    Without --weights the pretrained weights come from the hub or its cache.
    """
    from aligncut_cli.stages import extract as stage_file

    return stage_file.run([read_piped_path(path) for path in images], params, options, console)


@app.command(rich_help_panel="Stages")
@takes(EigsParams, output="Eigs store to write.")
@stage
def eigs(
    features: FEATURES,
    alignment: ALIGNMENT = None,
    basis: Annotated[
        Path | None,
        typer.Option("--basis", metavar="STORE", help="Carry new images into the space of this eigs store."),
    ] = None,
    *,
    params: EigsParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Cut the graph of all nodes: leading eigenvectors of the normalized affinity.

    Example: [bold]aligncut eigs f.zarr -o e.zarr --n-eig 20 --n-sample 50000[/bold]

    The eigenproblem is solved exactly on sampled nodes and carried to all others.
    """
    from aligncut_cli.stages import eigs as stage_file

    return stage_file.run(read_piped_path(features), params, options, console, alignment=alignment, basis=basis)


@app.command(rich_help_panel="Stages")
@takes(TsneParams, output="Tsne store to write.")
@stage
def tsne(
    eigs: EIGS,
    basis: Annotated[
        Path | None,
        typer.Option("--basis", metavar="STORE", help="Place and colour the nodes as in this tsne store."),
    ] = None,
    *,
    params: TsneParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Lay the eigenvectors out in 3-D for colours, or in 2-D for trajectories.

    Example: [bold]aligncut tsne e.zarr -o t.zarr --dims 3[/bold]
    """
    from aligncut_cli.stages import tsne as stage_file

    return stage_file.run(read_piped_path(eigs), params, options, console, basis=basis)


@app.command(rich_help_panel="Look")
@takes(RenderParams, output="Folder to write.")
@stage
def render(tsne: TSNE, *, params: RenderParams, options: RunOptions, console: Console) -> Outcome:
    """Draw every photo with its model and layer grids in AlignedCut colours, as PNG.

    Example: [bold]aligncut render t.zarr -o pictures[/bold]
    """
    from aligncut_cli.stages import render as stage_file

    return stage_file.run(read_piped_path(tsne), params, options, console)


@app.command(rich_help_panel="Look")
@takes()
def inspect(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Any store or output folder, finished or not.")],
    as_params: Annotated[bool, typer.Option("--params", help="Print its parameters as TOML, for --config.")] = False,
    *,
    options: RunOptions,
) -> None:
    """Say what a store holds, what it was made from, and whether it is complete.

    Example: [bold]aligncut inspect f.zarr[/bold]
    """
    from aligncut_cli.stages import inspect as stage_file

    found = stage_file.describe(read_piped_path(store))
    console = Console(quiet=options.quiet, verbose=options.verbose)
    if as_params:
        console.result(stage_file.params_as_toml(found))
    elif options.json:
        console.result_json(found)
    else:
        console.result(stage_file.as_text(found))
