"""Pretrained weights from the hub or its cache: timm's own for a name, or those of any repository."""

from __future__ import annotations

import contextlib
import http.client
import pickle
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from safetensors import SafetensorError
from torch import nn

from aligncut_cli.errors import BadInput
from aligncut_cli.models.build import build_model
from aligncut_cli.models.checkpoint import first_line, some
from aligncut_cli.models.locate import CONFIG_NAMES, HUB_PREFIX, WEIGHT_NAMES, WeightSource
from aligncut_cli.models.registry import ModelSpec

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_HUB_PROBE_SECONDS = 5.0
# The hub's client raises its HTTP library's errors, and which library that is depends on its version.
_HTTP_ERRORS = tuple(sys.modules[name].HTTPError for name in ("httpx", "httpx2", "requests") if name in sys.modules)
_LOAD_ERRORS = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError)


def load_from_hub(spec: ModelSpec, announce: Callable[[str], None] | None) -> tuple[nn.Module, str]:
    """Create a model with timm's pretrained weights; returns it and where they are on the hub."""
    cfg = timm.get_pretrained_cfg(spec.timm_name)
    hub_id = getattr(cfg, "hf_hub_id", None) or ""
    if cfg is None or not cfg.has_weights:
        tagged = timm.list_models(f"{spec.timm_name.partition('.')[0]}.*", pretrained=True)
        raise BadInput(
            f"timm has no pretrained weights for {spec.timm_name}",
            why=f"It has them for: {some(tagged)}." if tagged else "",
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
                why=first_line(error),
                do=f"Delete the file to have it downloaded again:\n  rm {cached}",
            ) from error
        raise _unavailable(spec, hub_id, files[0], f"{type(error).__name__}: {first_line(error)}") from error
    return model, hub_id or str(cfg.url)


def fetch_repository(spec: ModelSpec, announce: Callable[[str], None] | None) -> WeightSource:
    """Return the weights and configurations of `hf-hub:ORG/NAME[@REVISION]`, downloaded where they are not cached."""
    repo, _, revision = spec.weights.removeprefix(HUB_PREFIX).partition("@")
    wanted = f"{repo}@{revision}" if revision else repo
    cached = _find_in_cache(wanted, WEIGHT_NAMES)
    if cached is not None:  # as it is, like every cached file
        return WeightSource(
            (cached,), "", tuple(path for name in CONFIG_NAMES if (path := cached.parent / name).is_file())
        )
    _check_hub_answers(spec, wanted, WEIGHT_NAMES[0])
    try:
        with _without_progress_bars():
            if announce:
                announce(f"downloading the weights of '{spec.name}': {wanted}")
            found = (_download(repo, name, revision) for name in WEIGHT_NAMES)
            weights = next((path for path in found if path is not None), None)
            if weights is None:
                raise BadInput(
                    f"{spec.weights} has no file of weights that is known",
                    why=f"Known are {', '.join(WEIGHT_NAMES)}.",
                    do=f"Fetch its file, and give it: --weights {spec.name}=FILE",
                )
            configs = [_download(repo, name, revision) for name in CONFIG_NAMES]
    except (*_LOAD_ERRORS, *_HTTP_ERRORS) as error:
        raise _unavailable(spec, wanted, WEIGHT_NAMES[0], f"{type(error).__name__}: {first_line(error)}") from error
    return WeightSource((weights,), "", tuple(path for path in configs if path is not None))


def _download(repo: str, name: str, revision: str) -> Path | None:
    """Return a file of a repository, or None where the repository has none of that name."""
    try:
        return Path(huggingface_hub.hf_hub_download(repo, name, revision=revision or None))
    except LocalEntryNotFoundError:  # neither cached nor reachable
        raise
    except EntryNotFoundError:
        return None


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
