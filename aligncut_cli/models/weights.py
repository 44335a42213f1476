"""A timm model with the weights that were asked for: random, from a local file, or from the hub and its cache."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aligncut_cli.errors import BadInput
from aligncut_cli.models.build import build_model
from aligncut_cli.models.checkpoint import State, first_line, printable, read_checkpoint, some
from aligncut_cli.models.evidence import weigh_evidence
from aligncut_cli.models.hub import fetch_repository, load_from_hub
from aligncut_cli.models.layouts import Found, describe_state, find_backbone
from aligncut_cli.models.locate import HUB_PREFIX, WeightSource, locate_weights
from aligncut_cli.models.registry import ModelSpec, Preprocessing

WeightsRecord = dict[str, str | int]

# Parts of a ViT that features do not depend on: heads, and what comes after the blocks.
_AFTER_BLOCKS = (
    "norm.",
    "fc_norm.",
    "head",
    "attn_pool.",
    "neck.",
    "blocks_token_only.",
    "cls_attn_blocks.",
    "pooler.",
)
# Of these parts a checkpoint has no parameter that the model lacks; what else it has are heads and decoders.
_USED_PARTS = ("patch_embed.", "pos_embed", "cls_token", "dist_token", "reg_token", "norm_pre.", "blocks.")


def load_model(
    spec: ModelSpec, *, seed: int, announce: Callable[[str], None] | None = None
) -> tuple[nn.Module, WeightsRecord]:
    """Create the model on the CPU with its weights; its `pretrained_cfg` says how these want their images.

    seed     : of random weights
    announce : is told, in a sentence, before something slow such as a download, and what the weights changed
    returns  : the model, and where its weights came from with the SHA-256 of what was loaded
    """
    if spec.weights == "random":
        model = _build_random(spec, seed)
        record: WeightsRecord = {"source": "random", "seed": seed}
    elif spec.weights == "hub":
        model, hub_id = load_from_hub(spec, announce)
        record = {"source": "hub", "id": hub_id}
    elif spec.weights.startswith(HUB_PREFIX):
        model = _load_source(spec, fetch_repository(spec, announce), announce)
        record = {"source": "hub", "id": spec.weights.removeprefix(HUB_PREFIX)}
    else:
        source = locate_weights(spec.weights, spec.name)
        model = _load_source(spec, source, announce)
        record = {"source": "file", "file": source.name}
    return model, record | {"sha256": hash_state(model)}


def preprocessing_of(model: nn.Module, spec: ModelSpec) -> Preprocessing:
    """Return how images are prepared: as the options say, else as the weights do, else as timm does for the name."""
    cfg: Any = model.pretrained_cfg
    own = {"mean": tuple(cfg["mean"]), "std": tuple(cfg["std"]), "interpolation": str(cfg["interpolation"])}
    return Preprocessing(**{**own, **dict(spec.preprocessing)})


def hash_state(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of the parameters that the features depend on."""
    digest = hashlib.sha256()
    for key, value in sorted(_used_state(model).items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _used_state(model: nn.Module) -> State:
    return {key: value for key, value in model.state_dict().items() if not key.startswith(_AFTER_BLOCKS)}


def _build_random(spec: ModelSpec, seed: int) -> nn.Module:
    model = build_model(spec, seed=seed)
    with torch.no_grad():
        for value in model.parameters():
            # A layer scale starts at 1e-5 for training's sake and ends near 1. Left at its start, all features would
            # be float16 subnormals with two or three significant bits.
            if value.ndim == 1 and 0 < value[0] < 1 and bool((value == value[0]).all()):
                value.fill_(1.0)
    return model


# ---- local files


def _load_source(spec: ModelSpec, source: WeightSource, announce: Callable[[str], None] | None) -> nn.Module:
    state = read_checkpoint(source.files, spec.name)
    evidence = weigh_evidence(spec, state, source)
    model = build_model(spec, **evidence.options)
    found = _fill(model, state, source, spec.name)
    cfg: Any = model.pretrained_cfg
    cfg.update(evidence.preprocessing)
    if announce:
        for note in evidence.notes:
            announce(note)
        if found.others:
            own, other = found.start.strip("."), found.others[0]
            word = next((word for word in other.split(".") if word not in own.split(".")), other)
            announce(
                f"{spec.name}: {source.name} holds {len(found.others) + 1} models; '{printable(own)}' is "
                f"taken, not {some(found.others)}. For another: --weights {spec.name}={source.files[0]}::{word}"
            )
    return model


def load_checkpoint(model: nn.Module, path: Path, *, name: str) -> None:
    """Load a safetensors file or state dict, in timm's or its authors' own format, into `model`.

    name : of the model, for messages
    """
    source = WeightSource((path,))
    _fill(model, read_checkpoint(source.files, name), source, name)


def _fill(model: nn.Module, state: State, source: WeightSource, name: str) -> Found:
    """Load a checkpoint's tensors into a model, under whatever names its authors gave them; return what was found."""
    path, wanted = source.files[0], _used_state(model)
    found = find_backbone(state, set(wanted), part=source.part, path=path, name=name)
    state = found.state
    shown = describe_state(state)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some conversions print
            state = _filter_of(model, state)(state, model)
    except Exception as error:  # a conversion may raise anything on what it was not made for
        fault = f"timm cannot convert it ({type(error).__name__}: {first_line(error)})"
        raise _misfit(path, name, [fault], shown, state) from error
    roots = tuple({key.partition(".")[0] + "." for key in wanted if "." in key}) + _USED_PARTS
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key.startswith(roots) and key not in wanted and _is_weight(model, key)]
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    faults = [
        f"{label}: {some(keys)}"
        for label, keys in (("Missing", missing), ("Unexpected", unexpected), ("Shape", misshapen))
        if keys
    ]
    if faults:
        raise _misfit(path, name, faults, shown, state)
    for key in wanted:
        _check_values(key, state[key], path, name)
    model.load_state_dict({key: state[key] for key in wanted}, strict=False)
    return found


def _is_weight(model: nn.Module, key: str) -> bool:
    """Return whether a key is a parameter of a model, not a table that timm makes itself and does not store."""
    owner, _, last = key.rpartition(".")
    try:
        return not isinstance(getattr(model.get_submodule(owner), last, None), torch.Tensor)
    except AttributeError:
        return True


def _check_values(key: str, value: torch.Tensor, path: Path, name: str) -> None:
    """Refuse weights that are no real numbers: quantized, of truth values, complex, or not finite."""
    why = ""
    if not value.dtype.is_floating_point or value.layout != torch.strided:
        kind = str(value.dtype).removeprefix("torch.")
        why = f"{key} holds {kind}{'' if value.layout == torch.strided else ', sparse'}, not floating-point numbers."
    elif value.numel() * value.element_size() > value.untyped_storage().nbytes():
        why = f"{key} claims {value.numel():,} values and stores fewer."
    elif not bool(value.float().isfinite().all()):
        why = f"{key} has values that are not finite."
    if why:
        raise BadInput(
            f"the weights in {path} cannot be used for '{name}'", why=why,
            do=f"Save them as float32 (a quantized model must be dequantized first), then: --weights {name}=FILE",
        )  # fmt: skip


def _filter_of(model: nn.Module, state: Mapping[str, torch.Tensor]) -> Callable[[State, nn.Module], State]:
    """timm's conversion of original checkpoints for this architecture, with the settings that timm uses itself."""
    convert = getattr(inspect.getmodule(type(model)), "checkpoint_filter_fn", None)
    if convert is None:
        return lambda state, model: state
    settings: dict[str, Any] = {}
    variant = str(getattr(model, "pretrained_cfg", {}).get("architecture", ""))
    known = inspect.signature(convert).parameters
    if "flexi" in variant and "antialias" in known:
        settings |= {"interpolation": "bilinear", "antialias": False}
    if "adapt_layer_scale" in known and "blocks.0.gamma_1" in state:
        settings["adapt_layer_scale"] = True
    return lambda state, model: convert(state, model, **settings)


def _misfit(path: Path, name: str, faults: Sequence[str], shown: str, state: Mapping[str, Any]) -> BadInput:
    has = f"It is a ViT of {shown}" if shown else f"The file has: {some(list(state))}"
    return BadInput(
        f"the weights in {path} do not fit the model '{name}'",
        why=". ".join(faults) + f". {has}.",
        do="Name the architecture that the file belongs to, for example: "
        f"--model {name}=TIMM_NAME --weights {name}={path}",
    )
