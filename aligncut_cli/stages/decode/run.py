"""Decodes which image was seen from the responses to it, cross-validated, with the controls that this needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.digests import digest_file
from aligncut_cli.errors import UsageError
from aligncut_cli.params import DecodeParams, RunOptions, as_record
from aligncut_cli.stages.decode.sources import Source, open_sources
from aligncut_cli.stages.response_paths import ResponsePaths
from aligncut_cli.stages.style import STYLE_PARAMS, style_record
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity, InputRecord
from aligncut_cli.store.read import Store, open_store
from aligncut_cli.store.run import Outcome, Work

VERSION = 1
FIGURES_VERSION = 1
LOOSE = ("photos", "pictures", *STYLE_PARAMS)


def run(
    sources: Sequence[str],
    paths: ResponsePaths | None,
    params: DecodeParams,
    options: RunOptions,
    console: Console,
    *,
    alignment: Path | None = None,
    categories: Path | None = None,
    figures: Path | None = None,
) -> Outcome:
    """Write a decoding store, and a folder of tables and pictures if asked for; returns the store's path and scores.

    sources    : features stores or, for towers, photos; each PATH or NAME=PATH
    categories : CSV with the category of every image
    """
    if paths is None:
        raise UsageError("decode needs --responses", do="Give a table of images x neurons, as for `align`.")
    paths.only("decode")
    if params.objective == "classes" and categories is None and params.method != "ridge":
        raise UsageError("--objective classes learns categories", do="Give --categories CSV.")
    if alignment is not None and params.method == "towers":
        raise UsageError("towers see photos, which no --alignment maps", do="Leave it out, or take --method ridge.")
    opened = open_sources(sources, method=params.method, band=params.band, note=console.note)
    space = None if alignment is None else open_store(alignment, "alignment")
    inputs = [*(source.record for source in opened), paths.as_input(), *([] if space is None else [space.as_input])]
    if categories is not None:
        digest = digest_file(categories, what="categories")
        inputs.append(InputRecord(str(categories.resolve()), "categories", digest, files=(categories,)))
    identity = Identity(
        stage="decode",
        version=VERSION,
        kind="decoding",
        params=as_record(params),
        inputs=inputs,
        loose=LOOSE,
        extra={"runs": [source.name for source in opened]},
    )

    build = partial(_build, opened, paths, params, space, categories)
    outside = [source.path for source in opened if source.path.is_dir()]
    outcome = run_stage(identity, options, console, inputs=outside, build=build)
    if figures is not None and outcome.plan is None:
        draw(outcome.path, params, replace(options, output=figures), console)
    return outcome


def _build(
    sources: Sequence[Source],
    paths: ResponsePaths,
    params: DecodeParams,
    alignment: Store | None,
    categories: Path | None,
    work: Work,
) -> Stage:
    from aligncut_cli.stages.decode.phases import DecodeStage

    return DecodeStage(work, sources, paths, params, alignment=alignment, categories=categories)


def draw(decoding: Path, params: DecodeParams, options: RunOptions, console: Console) -> Outcome:
    """Write CSV tables, plots and a sheet of failures of a decoding to a folder; returns its path."""
    source = open_store(decoding, "decoding")
    identity = Identity(
        stage="decode --figures",
        version=FIGURES_VERSION,
        kind="folder",
        params={"pictures": params.pictures, **style_record(params)},
        inputs=[source.as_input],
        extra={} if params.photos is None else {"photos": params.photos},
    )

    def build(work: Work) -> Stage:
        from aligncut_cli.stages.decode.figures import DecodeFigures

        return DecodeFigures(work, source, params, console)

    return run_stage(identity, options, console, inputs=[source.path], build=build)
