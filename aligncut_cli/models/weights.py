"""A timm model with the weights that were asked for: random, from a local file, or from the hub and its cache."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import inspect
import pickle
import ssl
import sys
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub import constants as hub_constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from aligncut_cli.errors import BadInput
from aligncut_cli.models.registry import ModelSpec

WeightsRecord = dict[str, str | int]

# The parts of a ViT that features at `blocks.i.ls1` depend on; a checkpoint's other keys are heads and decoders.
_USED_PARTS = ("patch_embed.", "pos_embed", "cls_token", "dist_token", "reg_token", "norm_pre.", "blocks.")

# Where training scripts put the state dict inside what they save; averaged weights first, as timm does.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "teacher", "target_encoder", "encoder", "module")

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_HUB_PROBE_SECONDS = 5.0
# The hub's client raises its HTTP library's errors, and which library that is depends on its version.
_HTTP_ERRORS = tuple(sys.modules[name].HTTPError for name in ("httpx", "httpx2", "requests") if name in sys.modules)
_LOAD_ERRORS = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError)


def build_model(spec: ModelSpec, *, seed: int | None = None, **options: Any) -> nn.Module:
    """Create the architecture without its classifier, leaving torch's global generator as it was.

    seed    : of the initial values, together with the model's name, so that two random models differ
    options : further arguments of `timm.create_model`
    """
    arguments: dict[str, Any] = {"num_classes": 0, "img_size": spec.image_size, **dict(spec.arch), **options}
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            mixed = hashlib.sha256(f"{seed}/{spec.name}".encode()).digest()
            # Not torch.manual_seed, which would also reseed the CUDA generators.
            torch.default_generator.manual_seed(int.from_bytes(mixed[:8], "little", signed=True))
        model: nn.Module = timm.create_model(spec.timm_name, **arguments)
    return model.eval()


def load_model(
    spec: ModelSpec, *, seed: int, announce: Callable[[str], None] | None = None
) -> tuple[nn.Module, WeightsRecord]:
    """Create the model on the CPU with its weights.

    seed     : of random weights
    announce : is told, in a sentence, before something slow such as a download
    returns  : the model, and where its weights came from with the SHA-256 of what was loaded
    """
    if spec.weights == "random":
        model = _build_random(spec, seed)
        record: WeightsRecord = {"source": "random", "seed": seed}
    elif spec.weights == "hub":
        model, hub_id = _load_from_hub(spec, announce)
        record = {"source": "hub", "id": hub_id}
    else:
        path = Path(spec.weights)
        model = build_model(spec)
        load_checkpoint(model, path, name=spec.name)
        record = {"source": "file", "file": path.name}
    return model, record | {"sha256": hash_state(model)}


def hash_state(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of the parameters that the features depend on."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        if key.startswith(_USED_PARTS):
            digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _build_random(spec: ModelSpec, seed: int) -> nn.Module:
    model = build_model(spec, seed=seed)
    with torch.no_grad():
        for key, value in model.named_parameters():
            # A layer scale starts at 1e-5 for training's sake and ends near 1. Left at its start, all features would
            # be float16 subnormals with two or three significant bits.
            if key.endswith((".ls1.gamma", ".ls2.gamma")):
                value.fill_(1.0)
    return model


# ---- local files


def load_checkpoint(model: nn.Module, path: Path, *, name: str) -> None:
    """Load a safetensors file or state dict, in timm's or its authors' own format, into `model`.

    name : of the model, for messages
    """
    state = _normalise_keys(_unwrap(_read_checkpoint(path, name), path))
    try:
        state = _filter_of(model, state)(state, model)
    except (*_LOAD_ERRORS, AttributeError, AssertionError, IndexError, TypeError) as error:
        raise _misfit(path, name, [f"timm cannot convert it ({type(error).__name__}: {error})"], state) from error
    wanted = {key: value for key, value in model.state_dict().items() if key.startswith(_USED_PARTS)}
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key.startswith(_USED_PARTS) and key not in wanted]
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    faults = [
        f"{label}: {_some(keys)}"
        for label, keys in (("Missing", missing), ("Unexpected", unexpected), ("Shape", misshapen))
        if keys
    ]
    if faults:
        raise _misfit(path, name, faults, state)
    model.load_state_dict({key: state[key] for key in wanted}, strict=False)


def _read_checkpoint(path: Path, name: str) -> Mapping[str, Any]:
    other = f"Give another file, or try it without weights: --weights {name}=random"
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise BadInput(
            f"the weights of '{name}' cannot be read: {path}", why=error.strerror or str(error), do=other
        ) from error
    damaged = BadInput(
        f"the weights of '{name}' are damaged or cut short: {path}",
        do=f"Copy or download the file again, then: --weights {name}={path}",
    )
    # A safetensors file begins with its header's length and the header's brace.
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise _with_reason(damaged, error) from error
    if _members(path, "constants.pkl"):
        raise BadInput(
            f"the weights of '{name}' are a TorchScript program, not a state dict: {path}",
            why="Reading it would run code from the file. OpenAI's CLIP files are of this kind.",
            do='If you trust it, convert it once:\n  python -c "import torch; torch.save(torch.jit.load('
            f"'{path}', map_location='cpu').state_dict(), '{path.stem}-state.pt')\"\n"
            f"then: --weights {name}={path.stem}-state.pt",
        )
    if _members(path, ".npy"):
        raise BadInput(
            f"the weights of '{name}' are a NumPy archive: {path}",
            why="Supported are safetensors files and PyTorch state dicts.",
            do=other,
        )
    try:
        # Training scripts keep their command line beside the weights; a Namespace holds plain values only.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on unusual pickle protocols; what cannot be read is an error
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" not in str(error).lower():
            raise _with_reason(damaged, error) from error
        raise BadInput(
            f"the weights of '{name}' hold more than tensors and are refused: {path}",
            why=f"Reading them could run code from the file ({_first_line(error)}).",
            do='If you trust the file, save its state dict alone:\n  python -c "import torch; c = torch.load('
            f"'{path}', map_location='cpu', weights_only=False); torch.save(c.get('state_dict', c.get('model', c)), "
            f"'{path.stem}-state.pt')\"\nthen: --weights {name}={path.stem}-state.pt",
        ) from error
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, IndexError, AttributeError, TypeError) as error:
        raise _with_reason(damaged, error) from error
    if not isinstance(content, Mapping):
        raise BadInput(
            f"the weights of '{name}' are a {type(content).__name__}, not a state dict: {path}",
            do=other,
        )
    return content


def _with_reason(damaged: BadInput, error: Exception) -> BadInput:
    return BadInput(damaged.what, why=_first_line(error), do=damaged.do)


def _members(path: Path, ending: str) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [member for member in archive.namelist() if member.endswith(ending)]
    except (zipfile.BadZipFile, OSError):
        return []


def _unwrap(content: Mapping[str, Any], path: Path) -> dict[str, torch.Tensor]:
    """Find the state dict inside what a training script saved."""
    inner = content
    while key := next((key for key in _WRAPPERS if isinstance(inner.get(key), Mapping)), None):
        inner = inner[key]
    state = {key: value for key, value in inner.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not state:
        raise BadInput(
            f"no state dict in {path}",
            why=f"It has: {_some([str(key) for key in content]) or 'nothing'}.",
            do="Save the state dict alone or under 'state_dict', 'model' or 'teacher'.",
        )
    return state


def _normalise_keys(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Strip what wrappers put before the names (`module.`, `backbone.`), whatever it is.

    The backbone is found by its patch embedding: timm's and most authors' is `patch_embed.proj`, OpenAI's is
    `conv1`, which timm's own conversion expects under `visual.`.
    """
    for anchor, beside, prefix in (
        ("patch_embed.proj.weight", "blocks.0.norm1.weight", ""),
        ("conv1.weight", "class_embedding", "visual."),
    ):
        found = [
            key.removesuffix(anchor)
            for key in state
            if key.endswith(anchor) and key.removesuffix(anchor) + beside in state
        ]
        # Teacher and student side by side: the teacher is the model that is meant to be used.
        found = [start for start in found if "teacher" in start] or found
        if len(found) == 1:
            start = found[0]
            return {prefix + key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    return state


def _filter_of(
    model: nn.Module, state: Mapping[str, torch.Tensor]
) -> Callable[[dict[str, torch.Tensor], nn.Module], dict[str, torch.Tensor]]:
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


def _misfit(path: Path, name: str, faults: Sequence[str], state: Mapping[str, Any]) -> BadInput:
    return BadInput(
        f"the weights in {path} do not fit the model '{name}'",
        why=". ".join(faults) + f". The file has: {_some(list(state))}.",
        do="Name the architecture that the file belongs to, for example: "
        f"--model {name}=TIMM_NAME --weights {name}={path}",
    )


# ---- the hub


def _load_from_hub(spec: ModelSpec, announce: Callable[[str], None] | None) -> tuple[nn.Module, str]:
    cfg = timm.get_pretrained_cfg(spec.timm_name)
    hub_id = getattr(cfg, "hf_hub_id", None) or ""
    if cfg is None or not cfg.has_weights:
        tagged = timm.list_models(f"{spec.timm_name.partition('.')[0]}.*", pretrained=True)
        raise BadInput(
            f"timm has no pretrained weights for {spec.timm_name}",
            why=f"It has them for: {_some(tagged)}." if tagged else "",
            do=f"Give a file, --weights {spec.name}=FILE, or use random ones: --weights {spec.name}=random",
        )
    files = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else _HUB_FILES
    overlay: dict[str, Any] = {}
    if hub_id:
        cached = _find_in_cache(hub_id, files)
        if cached and str(cfg.custom_load) != "hf":
            # A cached file is used as it is, without asking the hub for a newer one: it needs no network, and a run
            # that is resumed gets the weights that it began with.
            overlay = {"pretrained_cfg_overlay": {"file": str(cached), "custom_load": False}}
        else:
            _check_hub_answers(spec, hub_id, files[0])
            if announce:
                announce(f"downloading the weights of '{spec.name}': {hub_id} ({files[0]})")
    try:
        with _without_progress_bars():
            model = build_model(spec, pretrained=True, **overlay)
    except (*_LOAD_ERRORS, *_HTTP_ERRORS) as error:
        if overlay:
            raise BadInput(
                f"the cached weights of '{spec.name}' cannot be used: {cached}",
                why=_first_line(error),
                do=f"Delete the file to have it downloaded again:\n  rm {cached}",
            ) from error
        raise _unavailable(spec, hub_id, files[0], f"{type(error).__name__}: {_first_line(error)}") from error
    return model, hub_id or str(cfg.url)


def _find_in_cache(hub_id: str, files: Sequence[str]) -> Path | None:
    repo, _, revision = hub_id.partition("@")
    for file in files:
        found = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def _check_hub_answers(spec: ModelSpec, hub_id: str, file: str) -> None:
    """Find out within seconds that there is no network; the hub's own client retries for minutes."""
    if hub_constants.HF_HUB_OFFLINE:
        raise _unavailable(spec, hub_id, file, "HF_HUB_OFFLINE is set, so the hub is not asked.")
    if "all" in urllib.request.getproxies():
        return  # a kind of proxy that urllib does not know
    try:
        request = urllib.request.Request(hub_constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=_HUB_PROBE_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()  # any answer is one
    except urllib.error.URLError as error:
        # The hub's client brings its own certificates, so it may succeed where this failed.
        if not isinstance(error.reason, ssl.SSLError):
            raise _unavailable(spec, hub_id, file, f"{hub_constants.ENDPOINT}: {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unavailable(spec, hub_id, file, f"{hub_constants.ENDPOINT}: {error}") from error


def _unavailable(spec: ModelSpec, hub_id: str, file: str, why: str) -> BadInput:
    repo, _, revision = hub_id.partition("@")
    address = f"https://huggingface.co/{repo}/resolve/{revision or 'main'}/{file}"
    local = f"{spec.name}-{file}"
    return BadInput(
        f"the pretrained weights of '{spec.name}' ({spec.timm_name}) are not on this machine and cannot be downloaded",
        why=why,
        do=f"Fetch {file} of {repo} on a machine with network, and copy it here:\n  curl -L -o {local} {address}\n"
        f"or copy that machine's folder models--{repo.replace('/', '--')} into {hub_constants.HF_HUB_CACHE}.\n"
        f"To try things out without it: --weights {spec.name}=random\n"
        f"With the file: --weights {spec.name}={local}",
    )


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep the hub's client from drawing on the terminal, which is the console's."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _some(items: Sequence[str], limit: int = 4) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
