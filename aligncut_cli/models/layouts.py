"""Names of parameters: finds a ViT among a checkpoint's tensors, and gives it the names that timm converts from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from aligncut_cli.errors import BadInput
from aligncut_cli.models.checkpoint import State, printable, some

# A backbone is found by its patch embedding and a name beside it: the layout, the anchor, and what is beside.
_ANCHORS = (
    ("timm", "patch_embed.proj.weight", ("blocks.",)),
    ("openai", "conv1.weight", ("transformer.resblocks.",)),
    *(
        ("huggingface", f"embeddings.{anchor}.weight", ("encoder.layer.", "encoder.layers.", "layer.", "layers."))
        for anchor in ("patch_embeddings.projection", "patch_embeddings", "patch_embedding")
    ),
)
# Of several models in one file these are the ones meant to be used: averaged weights first, as timm has it.
_MEANT = ("state_dict_ema", "model_ema", "ema", "teacher", "target_encoder")
# Where training scripts put what they save, for layouts that have no anchor here.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "backbone", "student", *_MEANT)

_HUGGING_FACE = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^embeddings\.(?:cls_token|class_embedding)$", "cls_token"),
        (r"^embeddings\.position_embeddings?(?:\.weight)?$", "pos_embed"),
        (r"^embeddings\.distillation_token$", "dist_token"),
        (r"^embeddings\.(register_tokens|mask_token)$", r"\1"),
        (r"^embeddings\.patch_embeddings?\.(?:projection\.)?(weight|bias)$", r"patch_embed.proj.\1"),
        (r"^pre_layrnorm\.", "norm_pre."),
        (r"^(?:post_layernorm|layernorm)\.", "norm."),
        (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
        (r"\.(?:attention\.attention|self_attn|attention)\.(q|k|v)(?:uery|ey|alue|_proj)\.", r".attn.\1."),
        (r"\.(?:attention\.output\.dense|self_attn\.out_proj|attention\.o_proj)\.", ".attn.proj."),
        (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
        (r"\.(?:layernorm_before|layer_norm1)\.", ".norm1."),
        (r"\.(?:layernorm_after|layer_norm2)\.", ".norm2."),
        (r"\.(?:intermediate\.dense|mlp\.up_proj)\.", ".mlp.fc1."),
        (r"\.(?:output\.dense|mlp\.down_proj)\.", ".mlp.fc2."),
        (r"\.mlp\.weights_in\.", ".mlp.w12."),
        (r"\.mlp\.weights_out\.", ".mlp.w3."),
        (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
        (r"\.lambda_(\d)$", r".gamma_\1"),
    )
)


@dataclass(frozen=True)
class Found:
    """A ViT found in a checkpoint.

    layout : `timm` (its own names, which most authors use), `openai`, `huggingface`, or empty where it is not known
    start  : what stood before its names in the file
    state  : its tensors, with the names that timm's conversion takes
    others : where the other ViTs of the file start, of which this one was chosen by its name
    """

    layout: str
    start: str
    state: State
    others: tuple[str, ...] = ()


def find_backbone(state: State, wanted: set[str], *, part: str, path: Path, name: str) -> Found:
    """Find the ViT in a checkpoint; wrappers such as `module.` or `backbone.` are stripped, whatever they are.

    state  : all tensors by name
    wanted : names of the model's own parameters, by which conversions choose
    part   : which of several models is meant: a whole part of its names; empty where the file settles it
    raises : BadInput where there are several and nothing says which
    """
    if not part and wanted <= state.keys():
        return Found("timm", "", dict(state))
    candidates = _find_candidates(state)
    if part:
        chosen = [(layout, start) for layout, start in candidates if f".{part}." in f".{start}"]
        if not chosen:
            raise _ask(f"{path} has no model called '{part}'", candidates, path, name)
        candidates = chosen
    if not candidates:
        return Found("", "", _strip_wrappers(state))
    layout, start = _choose(candidates, path, name)
    others = tuple(printable(other.strip(".")) for _, other in candidates if other != start)
    inner = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
    if layout == "openai":  # timm's conversion expects the whole CLIP
        return Found(layout, start, {f"visual.{key}": value for key, value in inner.items()}, others)
    if layout == "huggingface":
        inner = _rename_hugging_face(inner, wanted)
    return Found(layout, start, _join_chunks(inner), others)


def describe_state(state: Mapping[str, torch.Tensor]) -> str:
    """Say what a ViT's tensors show of it: depth, width, patch, registers; empty where they show nothing."""
    embedding = state.get("patch_embed.proj.weight", state.get("visual.conv1.weight"))
    blocks = {found[1] for key in state if (found := re.match(r"(?:visual\.transformer\.res)?blocks\.(\d+)\.", key))}
    if embedding is None or embedding.ndim != 4 or not blocks:
        return ""
    registers = next((state[key] for key in ("register_tokens", "storage_tokens", "reg_token") if key in state), None)
    count = f", {registers.shape[1]} registers" if registers is not None and registers.ndim == 3 else ""
    return f"{len(blocks)} blocks of {embedding.shape[0]} channels, patches of {embedding.shape[-1]} pixels{count}"


def _find_candidates(state: State) -> list[tuple[str, str]]:
    """Return layout and start of every ViT among the tensors."""
    found = []
    for layout, anchor, beside in _ANCHORS:
        for start in (key.removesuffix(anchor) for key in state if key.endswith(anchor)):
            ends = tuple(start + text for text in beside)
            # `xpatch_embed.proj` is no patch embedding, and the text half of a model has none.
            if (not start or start.endswith(".")) and any(key.startswith(ends) for key in state):
                found.append((layout, start))
    return sorted(set(found), key=lambda item: item[1])


def _choose(candidates: list[tuple[str, str]], path: Path, name: str) -> tuple[str, str]:
    if len(candidates) == 1:
        return candidates[0]
    for word in _MEANT:
        meant = [item for item in candidates if word in item[1].split(".")]
        if len(meant) == 1:
            return meant[0]
    raise _ask(f"{path} holds {len(candidates)} models, and nothing says which is meant", candidates, path, name)


def _ask(what: str, candidates: list[tuple[str, str]], path: Path, name: str) -> BadInput:
    paths = [start.strip(".").split(".") for _, start in candidates]
    told = [next((w for w in words if sum(w in other for other in paths) == 1), ".".join(words)) for words in paths]
    return BadInput(
        what,
        why=f"It has: {some(told) or 'one, without a name'}.",
        do="\n".join(f"--weights {name}={path}::{printable(word)}" for word in filter(None, told)) or "Leave it out.",
    )


def _strip_wrappers(state: State) -> State:
    """Take what lies under the names of training scripts, where a layout has no anchor to be found by."""
    while wrapper := next((w for w in _WRAPPERS if any(key.startswith(f"{w}.") for key in state)), None):
        state = {key[len(wrapper) + 1 :]: value for key, value in state.items() if key.startswith(f"{wrapper}.")}
    return dict(state)


def _join_chunks(state: State) -> State:
    """Number blocks that lie in chunks, `blocks.CHUNK.INDEX.`, from 0 on (DINOv2's training code)."""
    chunked = re.compile(r"blocks\.(\d+)\.(\d+)\.")
    places = {(int(found[1]), int(found[2])) for key in state if (found := chunked.match(key))}
    if not places:
        return state
    number = {place: count for count, place in enumerate(sorted(places))}
    return {
        chunked.sub(lambda found: f"blocks.{number[int(found[1]), int(found[2])]}.", key, count=1): value
        for key, value in state.items()
    }


def _rename_hugging_face(state: State, wanted: set[str]) -> State:
    """Give a Hugging Face ViT, DeiT, BEiT, MAE, DINOv2, DINOv3, CLIP or SigLIP its authors' names."""
    renamed: State = {}
    for key, value in state.items():
        if key.endswith("position_ids"):
            continue
        for pattern, new in _HUGGING_FACE:
            key = pattern.sub(new, key)
        renamed[key] = value
    for key in ("cls_token", "pos_embed"):  # CLIP's are a vector and a table
        while key in renamed and renamed[key].ndim < 3:
            renamed[key] = renamed[key][None]
    if "blocks.0.gamma_1" in wanted:
        renamed = {re.sub(r"\.ls(\d)\.gamma$", r".gamma_\1", key): value for key, value in renamed.items()}
    if "register_tokens" in renamed and "pos_embed" not in renamed:
        renamed["reg_token"] = renamed.pop("register_tokens")
    elif "register_tokens" in renamed:  # by its mask token timm knows DINOv2
        renamed.setdefault("mask_token", torch.zeros(1))
    return _join_projections(renamed, wanted)


def _join_projections(state: State, wanted: set[str]) -> State:
    """Put queries, keys and values into one matrix, or leave them apart, as the model has them."""
    joined = {key: value for key, value in state.items() if not re.search(r"\.attn\.[qkv]\.", key)}
    for start in sorted({key[: -len("q.weight")] for key in state if key.endswith(".attn.q.weight")}):
        weights = [state.get(f"{start}{one}.weight") for one in "qkv"]
        biases = [state.get(f"{start}{one}.bias") for one in "qkv"]
        if f"{start}q_proj.weight" in wanted:
            parts = [
                (f"{start}{one}_proj.{kind}", state.get(f"{start}{one}.{kind}"))
                for one in "qkv"
                for kind in ("weight", "bias")
            ]
            joined |= {key: value for key, value in parts if value is not None and (key in wanted or value.any())}
            continue
        if any(weight is None for weight in weights):
            continue
        joined[f"{start}qkv.weight"] = torch.cat([weight for weight in weights if weight is not None])
        known = next((bias for bias in biases if bias is not None), None)
        if known is None:
            continue
        # A projection without a bias is one with zeros; BEiT, EVA and DINOv3 leave out the keys'.
        q, k, v = (torch.zeros_like(known) if bias is None else bias for bias in biases)
        if f"{start}q_bias" in wanted:
            joined |= {f"{start}q_bias": q, f"{start}v_bias": v}
        elif f"{start}qkv.bias" in wanted or any(bias.any() for bias in (q, k, v)):
            joined[f"{start}qkv.bias"] = torch.cat([q, k, v])
    return joined
