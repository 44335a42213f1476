"""The command line: one short command per stage; parses, calls the stage, prints its result."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from aligncut_cli import __version__
from aligncut_cli.console import Console, escape, flush_streams, prepare_streams, readable_bytes
from aligncut_cli.errors import AlignCutError, BadInput, OutOfResources, Stopped, UsageError
from aligncut_cli.machine import keep_freed_memory, limit_threads
from aligncut_cli.options import RUN_FLAGS, OnceCommand, flags_given, takes
from aligncut_cli.params import (
    ActivationsParams,
    AlignParams,
    ApplyParams,
    CompareParams,
    ConceptsParams,
    DecodeParams,
    DemoParams,
    EigsParams,
    ExportParams,
    ExtractParams,
    RenderParams,
    ReportParams,
    RunOptions,
    SegmentParams,
    TransitionsParams,
    TsneParams,
)
from aligncut_cli.store.apart import keep_apart
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

FITTED = Annotated[
    Path, typer.Option("--alignment", metavar="STORE", help="Alignment of the features to brain responses.")
]
MASKS = Annotated[
    Path | None, typer.Option("--masks", metavar="PATH", help="Ground-truth masks: a folder or a .mat file.")
]
CLASSES = Annotated[
    Path | None,
    typer.Option("--classes", metavar="FILE", help="Names of the masks' classes, one per line, the background first."),
]
PHOTOS = Annotated[
    Path | None,
    typer.Option("--photos", metavar="DIR", help="Folder to look in for photos that have moved since `extract`."),
]
RESPONSES = Annotated[
    list[str] | None,
    typer.Option(
        "--responses",
        metavar="PATH",
        help="Folder of an Algonauts 2023 subject or of NSD's betas, or a table of images x voxels: .npy, .npz, "
        ".csv, .mat, FILE.h5::DATASET, .nii.gz; or a folder with responses.*, or with lh and rh. Of several "
        "subjects, NAME=PATH each: the images that all saw, voxels side by side.",
    ),
]
IMAGE_IDS = Annotated[
    list[str] | None,
    typer.Option(
        "--image-ids", metavar="CSV", help="Image of each row of the responses, or NAME=CSV; else see --order."
    ),
]
FIGURES = Annotated[
    Path | None,
    typer.Option("--figures", metavar="DIR", help="Also write CSV tables, plots and pictures, to this folder."),
]


APPLY_FLAGS = {"--apply", "--output", "--config", "--seed", *RUN_FLAGS}


def main() -> NoReturn:
    """Run the command line; every error becomes a message and an exit code here."""
    # torch's threads would spin while they wait, which makes small work on a busy machine many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    limit_threads()
    keep_freed_memory()
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    prepare_streams()
    console = Console(verbose="-v" in sys.argv or "--verbose" in sys.argv)
    try:
        app()
    except SystemExit as ended:
        gone = ended.__context__  # the parser ends with 1 where the reader of its help or of its complaint has gone
        sys.exit(getattr(gone.__context__, "exit_code", 0) if isinstance(gone, BrokenPipeError) else ended.code)
    except (Exception, KeyboardInterrupt, Stopped) as error:
        sys.exit(report_failure(error, console))
    finally:
        flush_streams()
    sys.exit(0)


def report_failure(error: BaseException, console: Console) -> int:
    """Say what went wrong, and return the exit code."""
    if isinstance(error, KeyboardInterrupt | Stopped):
        # Zarr's own thread may be writing a chunk, of a block that is not marked, and complain as the process ends.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        done = "; ".join(getattr(error, "__notes__", []))
        console.warn(f"stopped{f' ({done})' if done else ''}. The same command goes on from there.")
        return 143 if isinstance(error, Stopped) else 130
    known = _as_known_error(error)
    console.error(known)
    return known.exit_code if isinstance(known, AlignCutError) else 1


DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)
TOO_MUCH = {
    errno.EFBIG: "a file would be larger than is allowed here (ulimit -f)",
    errno.ENOMEM: "memory ran out",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
}
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "ALLOC_FAILED",
    "failed to map segment",
    "can't start new thread",
)


def _as_known_error(error: BaseException) -> BaseException:
    """Turn the system's errors into ours, which a user can act on."""
    text = str(error)
    if isinstance(error, AlignCutError):
        return error
    if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
        return OutOfResources(
            f"the disk is full: {error.filename or error}",
            do="What is finished is kept. Free some space, then type the same command again.",
        )
    if isinstance(error, OSError) and error.errno in TOO_MUCH:
        return OutOfResources(
            f"{TOO_MUCH[error.errno]}: {error.filename or error}",
            do="What is finished is kept. Raise the limit, then type the same command again.",
        )
    if isinstance(error, PermissionError):
        return BadInput(f"no permission: {error.filename or error}", do="Give a path that you may read and write.")
    memory = isinstance(error, RuntimeError | ImportError) and any(sign in text for sign in OUT_OF_MEMORY)
    if isinstance(error, MemoryError) or memory:
        return OutOfResources(
            f"memory ran out: {text.splitlines()[0] if text else type(error).__name__}",
            do="What is finished is kept. Type the same command again with a smaller --batch-size or --n-sample.",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return BadInput(
            f"{error.strerror or text}: {error.filename or 'no file named'}",
            do="Check the path and its disk; what is finished is kept.",
        )
    return error


def _interrupt(signal_number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _stop(signal_number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, _leave)
    raise Stopped


def _leave(signal_number: int, frame: FrameType | None) -> NoReturn:
    """End at once, when asked a second time: nothing that is finished can be lost."""
    os._exit(128 + signal_number)


def command(panel: str) -> Callable[..., Any]:
    """Add a command to a panel of the help."""
    return app.command(rich_help_panel=panel, cls=OnceCommand)


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
            keep_apart(*_named_paths(values))
            show(function(**values, console=console), options, console)
        except (KeyboardInterrupt, BrokenPipeError) as error:  # typer would end here without a word
            raise typer.Exit(report_failure(error, console)) from error

    return command


def _named_paths(values: Mapping[str, Any]) -> tuple[list[Path], list[Path]]:
    """Return the outputs and the inputs that a command line names, whatever its options are called."""
    outputs = [values["options"].output, *([values["figures"]] if values.get("figures") else [])]
    inputs: list[Path] = []
    for name, value in [*values.items(), ("photos", getattr(values.get("params"), "photos", None))]:
        if name == "figures":
            continue
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, str | Path) and str(item) != "-":
                path = Path(item)
                inputs.append(path if path.exists() else Path(str(item).rpartition("=")[2]))
    return outputs, inputs


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

    [bold]aligncut extract photos -o f.zarr[/bold]

    [bold]aligncut align f.zarr -o a.zarr --target consensus[/bold]

    [bold]aligncut eigs f.zarr -o e.zarr --alignment a.zarr | aligncut tsne - -o t.zarr[/bold]

    [bold]aligncut render t.zarr -o pictures[/bold]
    """


@command("Start here")
@takes(DemoParams)
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the demo keeps its world and results.")] = Path(
        "aligncut-demo"
    ),
    *,
    params: DemoParams,
    options: RunOptions,
) -> None:
    """Run the whole pipeline on a small built-in world, offline.

    Example: [bold]aligncut demo[/bold]

    It prints each command as you would type it, what was found, and the report to open.
    A second run answers from the stores of the first.
    """
    from aligncut_cli.demo import findings, tour

    console = Console(quiet=options.quiet, verbose=options.verbose)
    found = tour.run(folder, params, console, functools.partial(_call, options=options))
    console.note(findings.describe_findings(found, folder))
    if options.json:
        console.result_json(found)
    else:
        console.result(found["report"])


def _call(arguments: Sequence[str], *, options: RunOptions) -> None:
    """Run one command line as if it had been typed; its result line is not the demo's result."""
    quiet = ["--quiet"] if options.quiet else []
    with contextlib.redirect_stdout(io.StringIO()):
        code = app([*arguments, *quiet], standalone_mode=False)
    if isinstance(code, int) and code:
        raise typer.Exit(code)


@command("Stages")
@takes(ExtractParams, output="Features store to write.")
@stage
def extract(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES",
            help="A folder, images, a .txt list, ImageNet-Segmentation's .mat or NSD's nsd_stimuli.hdf5.",
        ),
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
    from aligncut_cli.stages.extract.run import run as run_extract

    return run_extract([read_piped_path(path) for path in images], params, options, console)


@command("Stages")
@takes(AlignParams, output="Alignment store to write; with --apply, features store.")
@stage
def align(
    context: typer.Context,
    features: FEATURES,
    responses: RESPONSES = None,
    apply: Annotated[
        Path | None,
        typer.Option("--apply", metavar="STORE", help="Fit nothing; map the features by this alignment."),
    ] = None,
    image_ids: IMAGE_IDS = None,
    rois: Annotated[
        list[str] | None,
        typer.Option(
            "--rois", metavar="FILE", help="Regions of interest: named sets of voxels, .json or .npz; or NAME=FILE."
        ),
    ] = None,
    noise_ceiling: Annotated[
        list[str] | None,
        typer.Option(
            "--noise-ceiling",
            metavar="FILE",
            help="Explainable share of each voxel's variance, 0 to 1; or NSD's ncsnr; or NAME=FILE.",
        ),
    ] = None,
    figures: FIGURES = None,
    *,
    params: AlignParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Learn one universal channel space for all models and layers, from brain responses or from what the layers share.

    Example: [bold]aligncut align f.zarr -o a.zarr --responses subj01[/bold]

    Example: [bold]aligncut align f.zarr -o a.zarr --target consensus[/bold]

    Scored on held-out images are responses, beside a ridge on the same features, or the consensus, layer by layer.
    The other commands map features while they read them, by --alignment a.zarr. To write the mapped features:

    [bold]aligncut align f.zarr --apply a.zarr -o u.zarr[/bold]
    """
    from aligncut_cli.stages.align.run import apply as apply_alignment
    from aligncut_cli.stages.align.run import run as run_align
    from aligncut_cli.stages.response_paths import ResponsePaths

    source = read_piped_path(features)
    if apply is not None:
        fitting = [flag for flag in flags_given(context) if flag not in APPLY_FLAGS]
        if fitting:
            raise UsageError(
                f"--apply maps by a finished fit and takes no {', '.join(fitting)}", do="Leave one or the other out."
            )
        return apply_alignment(source, apply, ApplyParams(seed=params.seed), options, console)
    given = {"responses": responses, "image_ids": image_ids, "rois": rois, "noise_ceiling": noise_ceiling}
    paths = ResponsePaths.of({name: paths or [] for name, paths in given.items()}) if responses else None
    return run_align(source, paths, params, options, console, figures=figures)


@command("Stages")
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
    """Cut the graph of all tokens: leading eigenvectors of the normalized affinity, which group what is similar.

    Example: [bold]aligncut eigs f.zarr -o e.zarr --alignment a.zarr[/bold]

    Example: [bold]aligncut eigs f.zarr -o e.zarr --extend nystrom --n-sample 4000[/bold]

    The eigenproblem is solved exactly on sampled nodes and carried to all others, by default as in the paper.

    --extend nystrom --n-sample 4000 is many times faster than that and comes closer to the exact solution.

    With --basis, the groups, the sample and the eigenvectors are those of that store.
    """
    from aligncut_cli.stages.eigs.run import run as run_eigs

    return run_eigs(read_piped_path(features), params, options, console, alignment=alignment, basis=basis)


@command("Stages")
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

    Example: [bold]aligncut tsne e.zarr -o t.zarr[/bold]

    Example: [bold]aligncut tsne e.zarr -o flat.zarr --dims 2[/bold]

    With --basis, the map and its colours are those of that store, and only nodes are placed.
    """
    from aligncut_cli.stages.tsne.run import run as run_tsne

    return run_tsne(read_piped_path(eigs), params, options, console, basis=basis)


@command("Look")
@takes(CompareParams, output="Folder to write.")
@stage
def compare(
    features: FEATURES,
    alignment: ALIGNMENT = None,
    *,
    params: CompareParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Compare the same tokens between all models and layers, before and after alignment (Fig. 3).

    Example: [bold]aligncut compare f.zarr --alignment a.zarr -o similarity[/bold]

    It writes the mean cosine of every two slots, each a layer of a model, as CSV and as a picture; and of the
    features before alignment the linear CKA, which no rotation changes, and the mean canonical correlation, which no
    invertible map changes, beside those of exchanged images. All models need the same grid of tokens.
    """
    from aligncut_cli.stages.compare.run import run as run_compare

    return run_compare(read_piped_path(features), params, options, console, alignment=alignment)


@command("Findings")
@takes(SegmentParams, output="Segments store to write.")
@stage
def segment(
    eigs: Annotated[
        list[str],
        typer.Argument(
            metavar="EIGS",
            help="Eigs stores, each PATH or NAME=PATH; those of one NAME are repetitions with other seeds.",
        ),
    ],
    masks: MASKS = None,
    classes: CLASSES = None,
    figures: FIGURES = None,
    photos: PHOTOS = None,
    *,
    params: SegmentParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Segment every image, and score it against ground-truth masks.

    Example: [bold]aligncut segment e.zarr -o s.zarr --masks masks --figures scores[/bold]

    With --masks alone, an oracle that knows the masks labels each pixel by its nearest class centre.
    With --clusters the eigenvectors are cut into segments, and masks serve to score them only:

    [bold]aligncut segment e.zarr -o k.zarr --clusters 20 --figures cuts[/bold]
    """
    from aligncut_cli.stages.segment.run import run as run_segment

    return run_segment(eigs, params, options, console, masks=masks, classes=classes, figures=figures, photos=photos)


@command("Findings")
@takes(TransitionsParams, output="Transitions store to write.")
@stage
def transitions(
    tsne: TSNE,
    masks: MASKS = None,
    classes: CLASSES = None,
    figures: FIGURES = None,
    *,
    params: TransitionsParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Count how tokens move between concepts from layer to layer.

    Example: [bold]aligncut transitions t.zarr -o x.zarr --from clip:3 --to clip:4 --masks masks[/bold]

    Concepts are balls around dense places of the map that lie far apart.
    With --masks, foreground and background are counted apart; giving masks to other images tells whether they differ.
    From each layer of a model to the next:

    [bold]aligncut transitions t.zarr -o x.zarr --along clip --figures flow[/bold]
    """
    from aligncut_cli.stages.transitions.run import run as run_transitions

    return run_transitions(
        read_piped_path(tsne), params, options, console, masks=masks, classes=classes, figures=figures
    )


@command("Findings")
@takes(DecodeParams, output="Decoding store to write.")
@stage
def decode(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Features stores, each PATH or NAME=PATH, side by side; for --method towers also a folder of photos.",
        ),
    ],
    responses: RESPONSES = None,
    alignment: ALIGNMENT = None,
    image_ids: IMAGE_IDS = None,
    categories: Annotated[
        Path | None,
        typer.Option("--categories", metavar="CSV", help="Category of each image, in columns image and category."),
    ] = None,
    figures: FIGURES = None,
    *,
    params: DecodeParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Tell which image was seen from the responses to it, and what that rests on.

    Example: [bold]aligncut decode f.zarr --responses subj01 -o d.zarr --control shuffle[/bold]

    Every image is held out once, and looked for among those that were held out with it. To learn from photos instead:

    [bold]aligncut decode photos --responses subj01 --method towers -o d.zarr[/bold]
    """
    from aligncut_cli.stages.decode.run import run as run_decode
    from aligncut_cli.stages.response_paths import ResponsePaths

    paths = ResponsePaths.of({"responses": responses, "image_ids": image_ids or []}) if responses else None
    return run_decode(
        sources, paths, params, options, console, alignment=alignment, categories=categories, figures=figures
    )


@command("Findings")
@takes(ConceptsParams, output="Folder to write.")
@stage
def concepts(
    tsne: TSNE,
    features: Annotated[
        Path | None,
        typer.Option("--features", metavar="STORE", help="Features that the map was made of, mapped or not."),
    ] = None,
    alignment: Annotated[
        Path | None,
        typer.Option("--alignment", metavar="STORE", help="Alignment of the features to brain responses, if any."),
    ] = None,
    controls: Annotated[
        list[Path] | None,
        typer.Option("--controls", metavar="STORE", help="Alignment made with --control; give it again for more."),
    ] = None,
    photos: PHOTOS = None,
    *,
    params: ConceptsParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Describe concepts of the map by their patches and their activation of the brain's regions.

    Example: [bold]aligncut concepts t.zarr --features f.zarr --alignment a.zarr -o concepts[/bold]

    Concepts are balls around dense places of the map that lie far apart.
    Whether their correspondence to the ROIs says anything, only fits to shuffled responses can tell:

    [bold]aligncut align f.zarr -o c.zarr --responses brain --control shuffle --repeat 19[/bold]

    [bold]aligncut concepts t.zarr --features f.zarr --alignment a.zarr --controls c.zarr -o tested[/bold]
    """
    from aligncut_cli.stages.concepts.run import run as run_concepts

    source = read_piped_path(tsne)
    return run_concepts(source, features, alignment, params, options, console, controls=controls or (), photos=photos)


@command("Findings")
@takes(ActivationsParams, output="Folder to write.")
@stage
def activations(
    features: FEATURES,
    alignment: FITTED,
    masks: MASKS = None,
    classes: CLASSES = None,
    photos: PHOTOS = None,
    *,
    params: ActivationsParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Compare foreground and background, or all tokens to one, in the brain's space.

    Example: [bold]aligncut activations f.zarr --alignment a.zarr --masks masks -o activations[/bold]

    It averages over the pixels of all images, for each layer and ROI, and shows which patches drive the channels that
    matter most for each ROI. To see what is similar to one token:

    [bold]aligncut activations f.zarr --alignment a.zarr --token photo-1:6,7 --slot clip:5 -o token[/bold]
    """
    from aligncut_cli.stages.activations.run import run as run_activations

    source = read_piped_path(features)
    return run_activations(source, alignment, params, options, console, masks=masks, classes=classes, photos=photos)


@command("Look")
@takes(RenderParams, output="Folder to write.")
@stage
def render(tsne: TSNE, *, params: RenderParams, options: RunOptions, console: Console) -> Outcome:
    """Draw every photo with its model and layer grids in AlignedCut colours, as PNG.

    Example: [bold]aligncut render t.zarr -o pictures[/bold]
    """
    from aligncut_cli.stages.render.run import run as run_render

    return run_render(read_piped_path(tsne), params, options, console)


@command("Look")
@takes()
def inspect(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Any store or output folder, finished or not.")],
    as_params: Annotated[bool, typer.Option("--params", help="Print its parameters as TOML, for --config.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every chunk and file, and name what is damaged.")
    ] = False,
    *,
    options: RunOptions,
) -> None:
    """Say what a store holds, what it was made from, and whether it is complete.

    Example: [bold]aligncut inspect f.zarr[/bold]

    Its parameters make another like it: [bold]aligncut inspect e.zarr --params > run.toml[/bold]
    """
    from aligncut_cli.stages.inspect.run import as_text, describe, params_as_toml

    console = Console(quiet=options.quiet, verbose=options.verbose)
    found = describe(read_piped_path(store), verify=console if verify else None)
    if as_params:
        console.result(params_as_toml(found))
    elif options.json:
        console.result_json(found)
    else:
        console.result(escape(as_text(found)))


@command("Look")
@takes()
def params(
    stores: Annotated[list[str], typer.Argument(metavar="STORE", help="Any stores and output folders.")],
    methods: Annotated[bool, typer.Option("--methods", help="Print the paragraph for a paper alone.")] = False,
    *,
    options: RunOptions,
) -> None:
    """Print the whole chain that led to a store: every command, its parameters, versions and digests.

    Example: [bold]aligncut params scores.zarr > chain.toml[/bold]

    It is TOML; its first entry is a paragraph for a paper's methods, with the paper's equations by number and all that
    deviates from the paper: [bold]aligncut params scores.zarr --methods[/bold]
    """
    from aligncut_cli.stages.params.run import as_toml, collect_chain

    console = Console(quiet=options.quiet, verbose=options.verbose)
    chain = collect_chain([read_piped_path(path) for path in stores])
    if options.json:
        console.result_json(chain.as_record())
    else:
        console.result(escape(chain.describe_methods() if methods else as_toml(chain)))


@command("Look")
@takes(ExportParams, output="File to write: .npy, .npz, .csv or .parquet.")
@stage
def export(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Any store, or - to read its path from a pipe.")],
    *,
    params: ExportParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Write one array of a store as one file, for those who want no Zarr.

    Example: [bold]aligncut export e.zarr -o eigvecs.npy[/bold]

    Example: [bold]aligncut export f.zarr -o clip-5.npy --array tokens --model clip --layer 5[/bold]

    The file holds float32, a row per token, image, slot or voxel; FILE.ids.csv says what each row is.
    """
    from aligncut_cli.stages.export.run import run as run_export

    return run_export(read_piped_path(store), params, options, console)


@command("Look")
@takes(ReportParams, output="Folder to write; open its index.html.")
@stage
def report(
    stores: Annotated[
        list[str],
        typer.Argument(metavar="STORE", help="Any stores and output folders, or - to read a path from a pipe."),
    ],
    *,
    params: ReportParams,
    options: RunOptions,
    console: Console,
) -> Outcome:
    """Make one page of every picture, table and plot, with the photos to click on.

    Example: [bold]aligncut report e.zarr t.zarr s.zarr -o report --images 200[/bold]

    The page opens from disk, without a network: eigs stores give similarities, tsne stores colours and the map.
    """
    from aligncut_cli.stages.report.run import run as run_report

    return run_report([read_piped_path(path) for path in stores], params, options, console)
