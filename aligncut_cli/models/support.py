"""Which models of timm can be used: that the name exists, and why a model that does is refused."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

import timm
from torch import nn

from aligncut_cli.errors import UsageError
from aligncut_cli.models.registry import SHORT_NAMES, ModelSpec

# The files of timm whose models keep one grid of tokens throughout; what is suggested comes from these only.
FAMILIES = (
    "vision_transformer",
    "eva",
    "beit",
    "deit",
    "cait",
    "xcit",
    "vision_transformer_relpos",
    "vision_transformer_hybrid",
    "vision_transformer_sam",
    "naflexvit",
)
EXAMPLE = "vit_small_patch14_dinov2.lvd142m"


def check_known(timm_name: str) -> None:
    """Refuse a name or tag that timm does not have, with those that are close to it."""
    architecture, _, tag = timm_name.partition(".")
    if timm.is_model(architecture):
        if not tag:
            return
        tagged = timm.list_models(f"{architecture}.*", pretrained=True)
        if timm_name in tagged:
            return
        raise UsageError(
            f"timm's {architecture} has no weights called '{tag}'",
            why=f"It has: {', '.join(name.partition('.')[2] for name in tagged) or 'none'}.",
            do=f"For example: --model {(difflib.get_close_matches(timm_name, tagged, 1, 0) or [architecture])[0]}",
        )
    close = _close_to(timm_name)
    raise UsageError(
        f"timm {timm.__version__} has no model called '{timm_name}'",
        why=f"Close to it are: {', '.join(close)}." if close else f"Short names are: {', '.join(SHORT_NAMES)}.",
        do=f"For example: --model {(close or ['dino'])[0]}",
    )


def _close_to(timm_name: str) -> list[str]:
    """Return up to three names of usable models: those that contain the text, then those that are spelt alike."""
    names = [*SHORT_NAMES, *_usable_names()]
    close = difflib.get_close_matches(timm_name, names, n=3, cutoff=0.75)
    plain = timm_name.lower().replace("-", "").replace("_", "")
    inside = [name for name in names if len(plain) > 3 and plain in name.replace("_", "")]
    return list(dict.fromkeys([*inside, *close]))[:3]


@cache
def _usable_names() -> tuple[str, ...]:
    found = [
        name
        for family in FAMILIES
        for tags in (False, True)
        for name in timm.list_models(module=family, pretrained=tags)
    ]
    # Of models of a kind the small ones are suggested.
    return tuple(sorted(set(found), key=lambda name: ("tiny" not in name and "small" not in name, len(name), name)))


def find_trunk(model: Any) -> Any:
    """Return the part of a model that holds its `blocks`: itself or its encoder; None where there is none."""
    for part in (model, getattr(model, "encoder", None)):
        blocks = getattr(part, "blocks", None)
        if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks):
            return part
    return None


def refuse(model: nn.Module, spec: ModelSpec, *, site: str, why: str = "") -> UsageError:
    """Return the error that says what a model is, where it is no ViT whose layers share one grid of tokens."""
    if not why:
        attention = any(
            "Attention" in type(module).__name__ or "Attn" in type(module).__name__ for module in model.modules()
        )
        why = "its tokens do not keep one grid from layer to layer" if attention else "it has no attention"
    if site != "attn":
        why += f" (--site {site})"
    return UsageError(
        f"{spec.timm_name} is a {type(model).__name__}, which aligncut cannot take features from: {why}",
        why="It needs a ViT of timm's with one grid of tokens in all layers: vit_* (CLIP, DINOv2, DINOv3, MAE, SigLIP, "
        "PE, ...), deit*, eva*, beit*, cait*, xcit*, samvit*, flexivit*, naflexvit*.",
        do=f"For example: --model {EXAMPLE}",
    )
