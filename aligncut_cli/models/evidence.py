"""What weights say of themselves: the activation they were trained with, and how their images are prepared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from aligncut_cli.errors import BadInput
from aligncut_cli.models.checkpoint import State
from aligncut_cli.models.locate import WeightSource
from aligncut_cli.models.registry import ModelSpec

# Only the files that OpenAI published have these beside the weights.
_OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
# Names that the authors of DINO, MoCo, MAE and I-JEPA give; all of them trained with ImageNet's colours.
_SELF_SUPERVISED = ("teacher", "student", "base_encoder", "momentum_encoder", "target_encoder", "decoder_pos_embed")
_PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


@dataclass
class Evidence:
    """What follows from weights.

    options       : further arguments of `timm.create_model`
    preprocessing : mean, std, interpolation, as far as the weights settle them
    notes         : sentences for the user
    """

    options: dict[str, Any] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def weigh_evidence(spec: ModelSpec, state: State, source: WeightSource) -> Evidence:
    """Return what a checkpoint and its folder's configurations say.

    A configuration wins over the names of parameters, and these over timm's choice for a name without a tag.
    """
    configs, evidence = source.read_configs(), Evidence()
    if "clip" in spec.timm_name and "quickgelu" not in spec.timm_name and _wants_quickgelu(state, configs):
        evidence.options["act_layer"] = "quick_gelu"
        evidence.notes.append(f"{spec.name}: these weights were trained with QuickGELU, so it is computed")
    evidence.preprocessing = _read_preprocessing(configs, source)
    if evidence.preprocessing or "." in spec.timm_name or spec.arch:
        return evidence
    choices = _choices_of(spec.timm_name)
    if len({choice[:2] for choice in choices.values()}) < 2 or {"mean", "std"} <= dict(spec.preprocessing).keys():
        return evidence
    names = {part for key in state for part in key.split(".")}
    if source.part in _SELF_SUPERVISED or not names.isdisjoint(_SELF_SUPERVISED):
        evidence.preprocessing = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        evidence.notes.append(f"{spec.name}: colours are normalised as ImageNet's, as for all weights of this kind")
        return evidence
    default = timm.get_pretrained_cfg(spec.timm_name)
    other = next(tag for tag, choice in choices.items() if default and choice[0] != tuple(default.mean))
    evidence.notes.append(
        f"{spec.name}: {source.name} does not say how its images are normalised. timm's choice for {spec.timm_name} is "
        f"taken, mean {_numbers(default.mean) if default else ''}; {other} has {_numbers(choices[other][0])}. "
        f"Where that is right: --model {spec.name}={other}, or --mean and --std"
    )
    return evidence


def _wants_quickgelu(state: State, configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a CLIP is one of OpenAI's own, or says that it has their activation."""
    if any(key in state for key in _OPENAI_MARKS):
        return True
    open_clip, config = configs.get("open_clip_config.json", {}), configs.get("config.json", {})
    settings = [config, config.get("vision_config"), open_clip.get("model_cfg")]
    for setting in (item for item in settings if isinstance(item, dict)):
        if setting.get("hidden_act") == "quick_gelu" or setting.get("quick_gelu") is True:
            return True
    # OpenAI's clip package saves half precision, which open_clip does not.
    first = next((value for key, value in state.items() if key.endswith("visual.conv1.weight")), None)
    return first is not None and first.dtype == torch.float16


def _read_preprocessing(configs: Mapping[str, Mapping[str, Any]], source: WeightSource) -> dict[str, Any]:
    """Return what configurations say, by timm's names; timm's own, Hugging Face's and open_clip's are known."""
    own = configs.get("config.json", {})
    found: dict[str, Any] = {}
    for content, names in (
        (own.get("pretrained_cfg", own), ("mean", "std", "interpolation")),
        (configs.get("open_clip_config.json", {}).get("preprocess_cfg"), ("mean", "std", "interpolation")),
        (configs.get("preprocessor_config.json"), ("image_mean", "image_std", "resample")),
    ):
        if not isinstance(content, Mapping):
            continue
        for key, name in zip(("mean", "std", "interpolation"), names, strict=True):
            if content.get(name) is not None:
                found[key] = _checked(key, content[name], source)
    return found


def _checked(key: str, value: Any, source: WeightSource) -> Any:
    if key == "interpolation":
        known = _PILLOW.get(value, value) if isinstance(value, int) else value
        if known in _PILLOW.values():
            return known
    elif (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(x, int | float) and math.isfinite(x) for x in value)
        and (key == "mean" or min(value) > 0)
    ):
        return tuple(float(x) for x in value)
    raise BadInput(
        f"{source.configs[0].parent} says that the {key} of its images is {value!r}, which cannot be meant",
        do=f"Mend its configuration, or give the file of weights alone, with --{key}.",
    )


def _choices_of(architecture: str) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Return mean and standard deviation of every tag that timm has of an architecture."""
    tags = timm.list_models(f"{architecture}.*", pretrained=True)
    configs = {tag: timm.get_pretrained_cfg(tag) for tag in tags}
    return {tag: (tuple(cfg.mean), tuple(cfg.std)) for tag, cfg in configs.items() if cfg is not None}


def _numbers(values: Any) -> str:
    return " ".join(f"{value:.3g}" for value in values)
