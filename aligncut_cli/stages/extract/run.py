"""Stage 1: save the attention features of every layer of several ViTs (the V_i of Eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from aligncut_cli.console import Console
from aligncut_cli.digests import digest_of
from aligncut_cli.images.band import parse_band
from aligncut_cli.images.files import ImageFile, find_images, hash_images
from aligncut_cli.models.registry import ModelSpec, parse_models, weights_identity
from aligncut_cli.params import ExtractParams, RunOptions, as_record
from aligncut_cli.store.kinds.every import reserved_names
from aligncut_cli.store.phases import Stage, run_stage
from aligncut_cli.store.provenance import Identity, InputRecord
from aligncut_cli.store.run import Outcome, Work

VERSION = 1
SETTINGS = ("mean", "std", "interpolation", "size")
"""Options by which a model's images are prepared otherwise than its weights say."""
BILINEAR = ("_miil", "_sapiens2", "_lingbot")
"""Ends of the names of timm's architectures whose photos are not resized by bicubic interpolation. They alone say so in
the digest: everybody else's features are what they were when all photos were resized alike."""


def run(inputs: Sequence[Path], params: ExtractParams, options: RunOptions, console: Console) -> Outcome:
    """Write a features store for these images; returns its path and figures."""
    given = {name: getattr(params, name) for name in SETTINGS if getattr(params, name)}
    specs = parse_models(params.model, params.weights, reserved=reserved_names(), settings=given)
    files = find_images(inputs, skip_bad=params.skip_bad, note=console.note)
    hashes = hash_images(files, skip_bad=params.skip_bad)
    content = [[file.id, digest] for file, digest in zip(files, hashes, strict=True)]
    bilinear = {spec.name: "bilinear" for spec in specs if spec.timm_name.partition(".")[0].endswith(BILINEAR)}
    where = ", ".join(str(path.resolve()) for path in inputs)
    identity = Identity(
        stage="extract",
        version=VERSION,
        kind="features",
        params=as_record(params),
        inputs=[InputRecord(where, "images", digest_of(content), files=tuple(file.path for file in files))],
        extra={
            "weights": {spec.name: weights_identity(spec, seed=params.seed) for spec in specs},
            **({"interpolation": bilinear} if bilinear else {}),
            # Only what was asked for is a cause: features of the defaults are what they were without these options.
            **({"settings": {name: list(values) for name, values in given.items()}} if given else {}),
            **({"taken at": params.site} if params.site != "attn" else {}),
            **({"band": str(parse_band(params.band))} if params.band is not None else {}),
            **({"precision": params.precision} if params.precision != "auto" else {}),
        },
        loose=["weights", "site", "band", "precision", *SETTINGS],
    )

    folders = [path for path in inputs if path.is_dir()]
    build = partial(_build, files, specs, params)
    return run_stage(identity, options, console, inputs=folders, build=build)


def _build(files: Sequence[ImageFile], specs: Sequence[ModelSpec], params: ExtractParams, work: Work) -> Stage:
    from aligncut_cli.stages.extract.phases import ExtractStage

    return ExtractStage(work, files, specs, params)
