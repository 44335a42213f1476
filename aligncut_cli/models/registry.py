"""Which model an option means: short names, checks and the weights' identity; imports no torch and no timm."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aligncut_cli.digests import digest_file
from aligncut_cli.errors import UsageError

_SHIPPED = Path(__file__).resolve().parent.parent / "demo" / "weights"

Setting = int | float | bool | str


@dataclass(frozen=True)
class ModelSpec:
    """What `--model` and `--weights` ask for.

    name       : the model's group in every store
    timm_name  : timm's architecture and tag
    image_size : side of the square input in pixels; None is timm's own for this name
    arch       : (key, value) arguments for timm that change the architecture
    weights    : "hub" (or its cache), "random", or the path of a local file
    """

    name: str
    timm_name: str
    image_size: int | None = None
    arch: tuple[tuple[str, Setting], ...] = ()
    weights: str = "hub"


# The demo's models: small, and their weights come with the package, so that `aligncut demo` needs no network.
_DEMO_ARCH = (("patch_size", 8), ("embed_dim", 72), ("depth", 6), ("num_heads", 3))

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


def parse_models(models: Sequence[str], weights: Sequence[str], *, reserved: Collection[str] = ()) -> list[ModelSpec]:
    """Turn the values of `--model` and `--weights` into specifications, in the order given.

    models   : `clip`, any timm ViT name, or `NAME=` either of them; `@PIXELS` at the end sets the input's side
    weights  : `NAME=FILE`, `NAME=random`, `NAME=hub`; `random` or `hub` alone is for every model without an entry of
               its own, FILE alone is for the only model
    reserved : names that no model may have, since they mean something else in a store
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
    return [replace(spec, weights=chosen.get(spec.name, spec.weights)) for spec in specs]


def weights_identity(spec: ModelSpec, *, seed: int) -> dict[str, str | int]:
    """Say in a few words which weights these are, for the run's digest; reads a local file, but loads nothing.

    returns : {"source": "hub", "id"}, {"source": "file", "sha256"} or {"source": "random", "seed"}
    """
    if spec.weights == "hub":
        return {"source": "hub", "id": spec.timm_name}
    if spec.weights == "random":
        return {"source": "random", "seed": seed}
    what, do = f"the weights of '{spec.name}':", f"Give another file, or try it without: --weights {spec.name}=random"
    return {"source": "file", "sha256": digest_file(Path(spec.weights), what=what, do=do)}


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
            why="A timm name has only letters, digits, '_', '-' and '.'; files are given with --weights.",
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
