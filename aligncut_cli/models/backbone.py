"""A ViT as aligncut sees it: its geometry, and the attention branch of chosen layers for a batch of images."""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import timm
import torch
from torch import nn

from aligncut_cli.errors import UsageError
from aligncut_cli.maths.products import linear
from aligncut_cli.models.registry import SHORT_NAMES, ModelSpec
from aligncut_cli.models.weights import WeightsRecord, build_model, load_model

# What CUDA computes matrix products in. The tokens are stored as float16, so bfloat16 would spend 3 of their 11
# significant bits for a range that they cannot use; the residual stream stays float32 under autocast either way. What
# does overflow shows up in Features.finite.
CUDA_PRECISION = torch.float16


@dataclass(frozen=True)
class BackboneInfo:
    """A model's geometry.

    grid        : (h, w) patches; token 1 + row * w + column (without class token: row * w + column) is a patch
    class_token : whether token 0 is the class token
    n_register  : register (and distillation) tokens that are dropped
    image_size  : (h, w) of the input in pixels
    mean, std   : (3,) that the model's input is normalised with, for colours in 0..1
    interpolation : how photos are resized for it, by timm's name
    patch_size  : side of a patch in pixels
    n_tokens    : h * w + class_token
    """

    timm_name: str
    n_layers: int
    channels: int
    grid: tuple[int, int]
    class_token: bool
    n_register: int
    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    patch_size: int
    n_tokens: int


class Features(NamedTuple):
    """What `Backbone.extract` returns, on the model's device.

    tokens : (L, B, T, C) float16, attention branch per layer, image, token and channel
    pooled : (L, B, C) float32, mean over all T tokens of the values before they were rounded to float16
    finite : (L, B) bool, whether all of tokens[l, b] is finite; beyond 65504 float16 is infinite
    """

    tokens: torch.Tensor
    pooled: torch.Tensor
    finite: torch.Tensor


def describe_backbone(spec: ModelSpec) -> BackboneInfo:
    """Check that the model exists and is supported, and say what shape its features have; no weights are made."""
    _check_known(spec.timm_name)
    with torch.device("meta"):
        # First at timm's own size: whether the model takes another one is known once it is seen to be a ViT.
        model = build_model(ModelSpec(spec.name, spec.timm_name, None, spec.arch))
        _check_supported(model, spec)
        if spec.image_size is not None:
            _check_size(model, spec)
            model = build_model(spec)
        info = _describe(model, spec.timm_name)
        _check_hooked_shape(model, info, spec)
    return info


class Backbone:
    """A loaded model that computes the chosen layers' features; made by `load_backbone`."""

    def __init__(
        self,
        model: nn.Module,
        info: BackboneInfo,
        weights_record: WeightsRecord,
        *,
        layers: Sequence[int],
        device: torch.device,
    ) -> None:
        self.info = info
        self.weights_record = weights_record
        self.layers = tuple(layers)
        self.device = device
        self._model: Any = _cut_after(model, max(layers)).requires_grad_(False).eval().to(device)
        if device.type == "cpu":
            _hasten_linear_layers(self._model)
        # (x / 255 - mean) / std as one multiplication and one addition
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (info.mean, info.std))
        self._scale, self._shift = (1 / (255 * std)).to(device), (-mean / std).to(device)

    @torch.inference_mode()
    def extract(self, images: torch.Tensor) -> Features:
        """Compute the attention branch, as it joins the residual stream, at the chosen layers (PAPER.md, stage 1).

        images : (B, 3, H, W) uint8 of the model's input size, on any device
        """
        info = self.info
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, *info.image_size):
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}, not uint8 (B, 3, *{info.image_size})")
        count, n_layers = len(images), len(self.layers)
        tokens = torch.empty((n_layers, count, info.n_tokens, info.channels), dtype=torch.float16, device=self.device)
        pooled = torch.empty((n_layers, count, info.channels), dtype=torch.float32, device=self.device)
        finite = torch.empty((n_layers, count), dtype=torch.bool, device=self.device)

        def keep(index: int) -> Callable[[nn.Module, Any, torch.Tensor], None]:
            def hook(module: nn.Module, args: Any, output: torch.Tensor) -> None:
                kept = self._drop_registers(output)
                tokens[index] = kept
                pooled[index] = kept.mean(dim=1, dtype=torch.float32)
                # A float32 sum of this many float16 values cannot overflow: it is finite when all of them are.
                finite[index] = tokens[index].sum(dim=(1, 2), dtype=torch.float32).isfinite()

            return hook

        with contextlib.ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                stack.enter_context(self._model.blocks[layer].ls1.register_forward_hook(keep(index)))
            if self.device.type == "cuda":
                stack.enter_context(torch.autocast("cuda", dtype=CUDA_PRECISION))
            self._model.forward_features(self._normalise(images))
        return Features(tokens, pooled, finite)

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        # One memory layout whatever the caller's is, since the convolution's rounding may depend on it.
        values = images.to(self.device, non_blocking=True).contiguous()
        return torch.addcmul(self._shift, values.float(), self._scale)

    def _drop_registers(self, output: torch.Tensor) -> torch.Tensor:
        if not self.info.n_register:
            return output
        first = int(self.info.class_token)
        return torch.cat((output[:, :first], output[:, first + self.info.n_register :]), dim=1)


def load_backbone(
    spec: ModelSpec,
    *,
    layers: Sequence[int],
    seed: int,
    device: torch.device,
    announce: Callable[[str], None] | None = None,
) -> Backbone:
    """Load a model and its weights, and keep what the chosen layers need.

    layers   : indices from 0, in the order of the result's first axis
    seed     : of random weights
    announce : is told, in a sentence, before something slow such as a download
    """
    info = describe_backbone(spec)
    check_layers(info, layers, name=spec.name)
    model, record = load_model(spec, seed=seed, announce=announce)
    return Backbone(model, info, record, layers=layers, device=device)


def check_layers(info: BackboneInfo, layers: Sequence[int], *, name: str) -> None:
    """Refuse layers that the model does not have, or has but once."""
    outside = [layer for layer in layers if not 0 <= layer < info.n_layers]
    if outside or not layers or len(set(layers)) < len(layers):
        asked = ",".join(str(layer) for layer in layers) or "none"
        raise UsageError(
            f"--layers: '{name}' cannot give layers {asked}",
            why=f"It has layers 0 to {info.n_layers - 1}, and each can be asked for once.",
            do=f"For example: --layers 0-{info.n_layers - 1}",
        )


def _check_known(timm_name: str) -> None:
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
    names = [*SHORT_NAMES, *timm.list_models(), *timm.list_models(pretrained=True)]
    close = difflib.get_close_matches(timm_name, names, n=3)
    raise UsageError(
        f"timm {timm.__version__} has no model called '{timm_name}'",
        why=f"Close to it are: {', '.join(close)}." if close else f"Short names are: {', '.join(SHORT_NAMES)}.",
        do=f"For example: --model {(close or ['dino'])[0]}",
    )


def _check_supported(model: Any, spec: ModelSpec) -> None:
    blocks = getattr(model, "blocks", None)
    if (
        not isinstance(blocks, nn.Sequential | nn.ModuleList)
        or not all(hasattr(block, "ls1") for block in blocks)
        or not hasattr(model, "num_prefix_tokens")
        or not hasattr(getattr(model, "patch_embed", None), "grid_size")
    ):
        raise _unsupported(model, spec)


def _unsupported(model: nn.Module, spec: ModelSpec) -> UsageError:
    return UsageError(
        f"{spec.timm_name} is a {type(model).__name__}, which aligncut cannot take features from",
        why="It needs a plain ViT of timm's, with the attention branch of every block at blocks.i.ls1 and one grid of "
        "tokens throughout: vit_* (CLIP, DINOv2, MAE, SigLIP, augreg, ...), deit_*, deit3_* and flexivit_*, as far as "
        "they are a VisionTransformer.",
        do="For example: --model vit_small_patch14_dinov2.lvd142m",
    )


def _check_size(model: Any, spec: ModelSpec) -> None:
    patch = model.patch_embed.img_size[0] // model.patch_embed.grid_size[0]
    size = spec.image_size or 0
    if size % patch:
        near = [value for value in (size // patch * patch, (size // patch + 1) * patch) if value]
        raise UsageError(
            f"an input of {size} pixels is not a whole number of patches for '{spec.name}'",
            why=f"Its patches are {patch} pixels wide; near it are {' and '.join(map(str, near))}.",
            do=f"For example: --model {spec.name}={spec.timm_name}@{near[-1]}",
        )


def _describe(model: Any, timm_name: str) -> BackboneInfo:
    grid, image_size = tuple(model.patch_embed.grid_size), tuple(model.patch_embed.img_size)
    class_token = getattr(model, "cls_token", None) is not None
    return BackboneInfo(
        timm_name=timm_name,
        n_layers=len(model.blocks),
        channels=int(model.embed_dim),
        grid=grid,
        class_token=class_token,
        n_register=int(model.num_prefix_tokens) - int(class_token),
        image_size=image_size,
        mean=tuple(model.pretrained_cfg["mean"]),
        std=tuple(model.pretrained_cfg["std"]),
        interpolation=str(model.pretrained_cfg.get("interpolation") or "bicubic"),
        patch_size=image_size[0] // grid[0],
        n_tokens=grid[0] * grid[1] + int(class_token),
    )


@torch.inference_mode()
def _check_hooked_shape(model: Any, info: BackboneInfo, spec: ModelSpec) -> None:
    """Send one image without values through the model, and see that first and last layer give the tokens expected."""
    expected = (1, info.n_tokens + info.n_register, info.channels)
    shapes: list[tuple[int, ...]] = []
    with contextlib.ExitStack() as stack:
        for block in (model.blocks[0], model.blocks[-1]):
            hook = block.ls1.register_forward_hook(lambda module, args, output: shapes.append(tuple(output.shape)))
            stack.enter_context(hook)
        model.forward_features(torch.empty((1, 3, *info.image_size), device="meta"))
    if shapes != [expected, expected]:
        raise _unsupported(model, spec)


def _hasten_linear_layers(model: nn.Module) -> None:
    """Let oneDNN compute what `nn.Linear` does, to rounding: where MKL holds AVX-512 back, in half the time."""
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.forward = functools.partial(linear, weight=layer.weight, bias=layer.bias)  # type: ignore[method-assign]


def _cut_after(model: Any, last: int) -> Any:
    """Remove what comes after the attention branch of layer `last`."""
    model.blocks = model.blocks[: last + 1]
    final = model.blocks[last]
    final.norm2, final.mlp, final.ls2 = nn.Identity(), nn.Identity(), nn.Identity()
    model.norm = nn.Identity()
    return model
