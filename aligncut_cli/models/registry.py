"""Which model an option means: short names, checks and the weights' identity; imports no torch and no timm."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from aligncut_cli.digests import digest_file, digest_of
from aligncut_cli.errors import UsageError
from aligncut_cli.models.locate import HUB_PREFIX, locate_weights

_SHIPPED = Path(__file__).resolve().parent.parent / "demo" / "weights"

Setting = int | float | bool | str
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest", "box", "hamming")


class Preprocessing(NamedTuple):
    """How a model's images are prepared.

    mean, std     : (3,) that colours in 0..1 are normalised with
    interpolation : by which they are resized, a name of timm's
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


@dataclass(frozen=True)
class ModelSpec:
    """What `--model`, `--weights` and the options of preprocessing ask for.

    name          : the model's group in every store
    timm_name     : timm's architecture and tag
    image_size    : side of the square input in pixels; None is timm's own for this name
    arch          : (key, value) arguments for timm that change the architecture
    weights       : "hub" (or its cache), "random", the path of a local file or folder, or hf-hub:ORG/NAME
    preprocessing : (key, value) of those fields of Preprocessing that are not the weights' own
    """

    name: str
    timm_name: str
    image_size: int | None = None
    arch: tuple[tuple[str, Setting], ...] = ()
    weights: str = "hub"
    preprocessing: tuple[tuple[str, Any], ...] = ()


# The demo's models: small, and their weights come with the package, so that `aligncut demo` needs no network.
_DEMO_ARCH = (("patch_size", 8), ("embed_dim", 96), ("depth", 8), ("num_heads", 3))

SHORT_NAMES: dict[str, ModelSpec] = {
    # OpenAI's weights were trained with QuickGELU; timm's plain `..clip_224.openai` computes another activation.
    "clip": ModelSpec("clip", "vit_base_patch16_clip_quickgelu_224.openai", 224),
    # Patch 14 at 196 px gives the same 14 x 14 grid as the others.
    "dino": ModelSpec("dino", "vit_base_patch14_reg4_dinov2.lvd142m", 196),
    "mae": ModelSpec("mae", "vit_base_patch16_224.mae", 224),
    "demo-clip": ModelSpec(
        "demo-clip", "vit_tiny_patch16_224", 112, _DEMO_ARCH, str(_SHIPPED / "demo-clip.safetensors")
    ),
    "demo-dino": ModelSpec(
        "demo-dino", "vit_tiny_patch16_224", 112, _DEMO_ARCH, str(_SHIPPED / "demo-dino.safetensors")
    ),
    "demo-mae": ModelSpec("demo-mae", "vit_tiny_patch16_224", 112, _DEMO_ARCH, str(_SHIPPED / "demo-mae.safetensors")),
}


def parse_models(
    models: Sequence[str],
    weights: Sequence[str],
    *,
    reserved: Collection[str] = (),
    settings: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[ModelSpec]:
    """Turn the values of `--model` and `--weights` into specifications, in the order given.

    models   : `clip`, any timm ViT name, or `NAME=` either of them; `@PIXELS` at the end sets the input's side
    weights  : `NAME=FILE`, `NAME=random`, `NAME=hub`; `random` or `hub` alone is for every model without an entry of
               its own, FILE alone is for the only model
    reserved : names that no model may have, since they mean something else in a store
    settings : values of `--mean`, `--std`, `--interpolation` and `--size`, each for all models or `NAME=VALUE`
    """
    if not models:
        raise UsageError(
            "no model was named",
            do=f"Add one or more, for example: --model clip --model dino --model mae (short names: {_known_names()})",
        )
    specs = [_parse_model(text, reserved) for text in models]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"--model: two models are called '{name}'",
                why="A model's name is its group in the store.",
                do=f"Rename one, for example: --model {name}2={_timm_part(models[names.index(name)])}",
            )
    chosen = _parse_weights(weights, names)
    specs = [replace(spec, weights=chosen.get(spec.name, spec.weights)) for spec in specs]
    for setting, texts in settings.items():
        values = _parse_setting(setting, texts, names)
        specs = [_set(spec, setting, values[spec.name]) if spec.name in values else spec for spec in specs]
    return specs


def weights_identity(spec: ModelSpec, *, seed: int) -> dict[str, str | int]:
    """Say in a few words which weights these are, for the run's digest; reads a local file, but loads nothing.

    returns : {"source": "hub", "id"}, {"source": "file", "sha256"} or {"source": "random", "seed"}; of a file also the
              "part" that was named, and the version of the "evidence" that settles what the name leaves open
    """
    if spec.weights == "hub":
        return {"source": "hub", "id": spec.timm_name}
    if spec.weights == "random":
        return {"source": "random", "seed": seed}
    if spec.weights.startswith(HUB_PREFIX):
        return {"source": "hub", "id": spec.weights.removeprefix(HUB_PREFIX)}
    source = locate_weights(spec.weights, spec.name)
    what, do = f"the weights of '{spec.name}':", f"Give another file, or try it without: --weights {spec.name}=random"
    digests = [digest_file(path, what=what, do=do) for path in (*source.files, *source.configs)]
    identity: dict[str, str | int] = {"source": "file", "sha256": digests[0]}
    if len(digests) > 1:
        identity["sha256"] = digest_of(digests)
    if not spec.arch and (
        "." not in spec.timm_name or ("clip" in spec.timm_name and "quickgelu" not in spec.timm_name)
    ):
        identity["evidence"] = 1  # the weights decide how images are prepared or which activation it is
    return identity | ({"part": source.part} if source.part else {})


def _parse_setting(setting: str, texts: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Read the values of one option, each for all models or for the one that it names, by model."""
    common: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.strip().rpartition("=")
        if equals and name not in names:
            raise UsageError(
                f"--{setting} {text}: no model is called '{name}'",
                why=f"The models are: {', '.join(names)}.",
                do=f"For example: --{setting} {names[0]}={value}",
            )
        target = own if equals else common
        for one in [name] if equals else names:
            if one in target:
                raise UsageError(f"--{setting} is given twice for '{one}'", do=f"Keep one: --{setting} {text}")
            target[one] = _read_setting(setting, value)
    return common | own


def _read_setting(setting: str, value: str) -> Any:
    if setting == "interpolation":
        if value in INTERPOLATIONS:
            return value
        raise UsageError(f"--interpolation {value}: there is none such", do=f"Choose of: {', '.join(INTERPOLATIONS)}.")
    if setting == "size":
        if value.isdecimal() and int(value) > 0:
            return int(value)
        raise UsageError(f"--size {value!r} is no number of pixels", do="For example: --size 224")
    example = f"For example: --{setting} 0.5,0.5,0.5"
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or (setting == "std" and min(numbers) <= 0):
        needs = "three numbers above 0" if setting == "std" else "three numbers"
        raise UsageError(f"--{setting} {value!r}: it takes {needs}, for red, green and blue in 0..1", do=example)
    return numbers


def _set(spec: ModelSpec, setting: str, value: Any) -> ModelSpec:
    if setting == "size":
        return replace(spec, image_size=value)
    return replace(spec, preprocessing=(*spec.preprocessing, (setting, value)))


def _parse_model(text: str, reserved: Collection[str]) -> ModelSpec:
    name, equals, rest = text.strip().rpartition("=")
    timm_name, at, pixels = rest.partition("@")
    if not timm_name or (equals and not name):
        raise UsageError(
            f"--model {text}: not a model",
            do="Write a short name, a timm name, or NAME=TIMM_NAME, for example: --model dino",
        )
    if not re.fullmatch(r"[A-Za-z0-9_.\-]+", timm_name):
        raise UsageError(
            f"--model {text}: '{timm_name}' is not a timm name",
            why="A timm name has only letters, digits, '_', '-' and '.'; a file, a folder or hf-hub:ORG/NAME is for "
            "--weights: --model x=TIMM_NAME --weights x=FILE.",
            do=f"Use a short name ({_known_names()}) or a timm name, for example: --model vit_small_patch16_224",
        )
    spec = SHORT_NAMES.get(timm_name) or ModelSpec(timm_name, timm_name)
    spec = replace(spec, name=_check_name(name if equals else spec.name, text, reserved))
    if not at:
        return spec
    if not pixels.isdecimal() or int(pixels) == 0:
        raise UsageError(
            f"--model {text}: '{pixels}' is not an input size in pixels",
            do=f"Write the side of the square input, for example: --model {timm_name}@224",
        )
    return replace(spec, image_size=int(pixels))


def _check_name(name: str, text: str, reserved: Collection[str]) -> str:
    timm_name = _timm_part(text)
    if name in reserved:
        raise UsageError(
            f"--model {text}: the name '{name}' is taken by a part of the stores",
            why=f"Reserved: {', '.join(sorted(reserved))}.",
            do=f"Choose another name, for example: --model my-{name}={timm_name}",
        )
    # A store's group: no path separators, nothing hidden, nothing that zarr keeps for itself ("__").
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", name) or ".." in name:
        raise UsageError(
            f"--model {text}: '{name}' cannot be the name of a model",
            why="A name starts with a letter or digit and has only letters, digits, '_', '-' and single '.'.",
            do=f"Choose another name, for example: --model my-model={timm_name}",
        )
    return name


def _parse_weights(weights: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    everywhere = ""
    for text in weights:
        name, equals, value = text.strip().partition("=")
        # "=" may also be part of a bare file's path.
        if not equals or (name not in names and ("/" in name or "\\" in name)):
            name, value = "", text.strip()
        if not value:
            raise UsageError(
                f"--weights {text}: no file is given",
                do=f"Write NAME=FILE or NAME=random, for example: --weights {names[0]}=random",
            )
        if name and name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise UsageError(
                f"--weights {text}: no model is called '{name}'" + (f"; did you mean '{close[0]}'?" if close else ""),
                why=f"The models are: {', '.join(names)}.",
                do=f"For example: --weights {(close or names)[0]}={value}",
            )
        if not name and value in ("random", "hub"):
            if everywhere and everywhere != value:
                raise UsageError(
                    "--weights: both 'random' and 'hub' are given for every model",
                    do=f"Say which model each is for, for example: --weights {names[0]}={value}",
                )
            everywhere = value
            continue
        if not name and len(names) > 1:
            raise UsageError(
                f"--weights {text}: which of the models is it for?",
                why=f"The models are: {', '.join(names)}.",
                do=f"Write NAME=FILE, for example: --weights {names[0]}={value}",
            )
        name = name or names[0]
        if name in chosen:
            raise UsageError(
                f"--weights: '{name}' has two entries, {chosen[name]} and {value}",
                do=f"Keep one, for example: --weights {name}={value}",
            )
        chosen[name] = value
    return {name: everywhere for name in names if everywhere} | chosen


def _timm_part(text: str) -> str:
    return text.strip().rpartition("=")[2]


def _known_names() -> str:
    return ", ".join(SHORT_NAMES)
