"""A ViT as aligncut sees it: its geometry, and the attention branch of chosen layers for a batch of images."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from aligncut_cli.errors import UsageError
from aligncut_cli.maths.products import linear
from aligncut_cli.models.build import build_model
from aligncut_cli.models.precision import products_in, resolve_precision, round_linear_layers
from aligncut_cli.models.registry import ModelSpec
from aligncut_cli.models.sites import listen, taps_of
from aligncut_cli.models.support import check_known, find_trunk, refuse
from aligncut_cli.models.weights import WeightsRecord, load_model, preprocessing_of

# What creating or running a model of timm's raises where an option or an input does not suit it.
_UNSUITED = (TypeError, ValueError, RuntimeError, AttributeError, AssertionError, NotImplementedError, IndexError)


@dataclass(frozen=True)
class BackboneInfo:
    """A model's geometry, and how its images are prepared.

    channels      : of the features, at the site where they are taken
    grid          : (h, w) patches; token 1 + row * w + column (without class token: row * w + column) is a patch
    class_token   : whether token 0 is the class token
    n_register    : further tokens before the patches, which are dropped: registers, distillation
    image_size    : (h, w) of the input in pixels
    mean, std     : (3,) that the model's input is normalised with, for colours in 0..1
    interpolation : how images are resized, by timm's name for it
    patch_size    : side of a patch in pixels
    n_tokens      : h * w + class_token
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

    tokens : (L, B, T, C) float16, feature per layer, image, token and channel
    pooled : (L, B, C) float32, mean over all T tokens of the values before they were rounded to float16
    finite : (L, B) bool, whether all of tokens[l, b] is finite; beyond 65504 float16 is infinite
    """

    tokens: torch.Tensor
    pooled: torch.Tensor
    finite: torch.Tensor


def describe_backbone(spec: ModelSpec, *, site: str = "attn") -> BackboneInfo:
    """Check that the model exists and is supported, and say what shape its features have; no weights are made.

    site : where in a block features are taken, see `sites.taps_of`
    """
    check_known(spec.timm_name)
    with torch.device("meta"):
        # First at timm's own size: whether the model takes another one is known once it is seen to be a ViT.
        model = build_model(replace(spec, image_size=None))
        info = _describe(model, spec, site)
        if spec.image_size is not None:
            _check_size(info, spec)
            try:
                model = build_model(spec)
            except _UNSUITED as error:
                raise UsageError(
                    f"{spec.timm_name} does not take an input of {spec.image_size} pixels: {error}",
                    do=f"Leave the size out: --model {spec.name}={spec.timm_name}",
                ) from error
            info = _describe(model, spec, site)
    return info


class Backbone:
    """A loaded model that computes the chosen layers' features; made by `load_backbone`.

    precision : (attribute) fp32, fp16 or bf16: what its matrix products are computed in
    """

    def __init__(
        self,
        model: nn.Module,
        info: BackboneInfo,
        weights_record: WeightsRecord,
        *,
        layers: Sequence[int],
        device: torch.device,
        site: str = "attn",
        precision: str = "auto",
    ) -> None:
        self.info = info
        self.weights_record = weights_record
        self.layers = tuple(layers)
        self.device, self._site = device, site
        self.precision = resolve_precision(precision, device)
        self._trunk = find_trunk(model)
        self._trunk.blocks = self._trunk.blocks[: max(layers) + 1]
        self._model: Any = model.requires_grad_(False).eval().to(device)
        if device.type == "cpu" and self.precision == "fp32":
            _hasten_linear_layers(self._model)
        elif device.type == "cpu":
            round_linear_layers(self._model, self.precision)
        # (x / 255 - mean) / std as one multiplication and one addition
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (info.mean, info.std))
        self._scale, self._shift = (1 / (255 * std)).to(device), (-mean / std).to(device)

    @torch.inference_mode()
    def extract(self, images: torch.Tensor) -> Features:
        """Compute the attention branch, as it joins the residual stream, at the chosen layers (PAPER.md, stage 1).

        With another site than `attn`, that of `sites.taps_of`.

        images : (B, 3, H, W) uint8 of the model's input size, on any device
        """
        info = self.info
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, *info.image_size):
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}, not uint8 (B, 3, *{info.image_size})")
        count, n_layers, last = len(images), len(self.layers), max(self.layers)
        tokens = torch.empty((n_layers, count, info.n_tokens, info.channels), dtype=torch.float16, device=self.device)
        pooled = torch.empty((n_layers, count, info.channels), dtype=torch.float32, device=self.device)
        finite = torch.empty((n_layers, count), dtype=torch.bool, device=self.device)

        def keep(index: int, layer: int) -> Callable[[torch.Tensor], None]:
            def hook(value: torch.Tensor) -> None:
                kept = self._drop_registers(value.flatten(1, -2))
                tokens[index] = kept
                pooled[index] = kept.mean(dim=1, dtype=torch.float32)
                # A float32 sum of this many float16 values cannot overflow: it is finite when all of them are.
                finite[index] = tokens[index].sum(dim=(1, 2), dtype=torch.float32).isfinite()
                if layer == last:
                    raise _EnoughError

            return hook

        blocks = [(self._trunk.blocks[layer], keep(index, layer)) for index, layer in enumerate(self.layers)]
        with contextlib.ExitStack() as stack:
            listen(stack, blocks, self._site)
            stack.enter_context(products_in(self.precision, self.device))
            with contextlib.suppress(_EnoughError):
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
    site: str = "attn",
    precision: str = "auto",
) -> Backbone:
    """Load a model and its weights, and keep what the chosen layers need.

    layers    : indices from 0, in the order of the result's first axis
    seed      : of random weights
    announce  : is told, in a sentence, before something slow such as a download, and what the weights changed
    site      : where in a block features are taken, see `sites.taps_of`
    precision : of matrix products, see `precision.resolve_precision`
    """
    info = describe_backbone(spec, site=site)
    check_layers(info, layers, name=spec.name)
    model, record = load_model(spec, seed=seed, announce=announce)
    info = replace(info, **preprocessing_of(model, spec)._asdict())
    return Backbone(model, info, record, layers=layers, device=device, site=site, precision=precision)


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


class _EnoughError(Exception):
    """Ends a model's pass once its last layer has been heard."""


def _check_size(info: BackboneInfo, spec: ModelSpec) -> None:
    patch, size = info.patch_size, spec.image_size or 0
    if size % patch:
        near = [value for value in (size // patch * patch, (size // patch + 1) * patch) if value]
        raise UsageError(
            f"an input of {size} pixels is not a whole number of patches for '{spec.name}'",
            why=f"Its patches are {patch} pixels wide; near it are {' and '.join(map(str, near))}.",
            do=f"For example: --model {spec.name}={spec.timm_name}@{near[-1]}",
        )


@torch.inference_mode()
def _describe(model: Any, spec: ModelSpec, site: str) -> BackboneInfo:
    """Send one image without values through the model, and see that every layer gives one grid of tokens."""
    trunk = find_trunk(model)
    if trunk is None:
        raise refuse(model, spec, site=site)
    if not all(taps_of(block, site) for block in trunk.blocks):
        raise refuse(model, spec, site=site, why=f"no {site} branch is known in its {type(trunk.blocks[0]).__name__}")
    shapes: list[tuple[int, ...]] = []
    size, grid = _input_size(model, trunk, spec)
    try:
        with contextlib.ExitStack() as stack:
            keep = functools.partial(_note_shape, shapes)
            listen(stack, [(block, keep) for block in trunk.blocks], site)
            model.forward_features(torch.empty((1, 3, *size), device="meta"))
    except _UNSUITED as error:
        raise refuse(model, spec, site=site, why=f"it does not run on one image ({error})") from error
    declared = int(getattr(trunk, "num_prefix_tokens", 0) or 0)
    n_prefix = shapes[0][1] - grid[0] * grid[1] if shapes and len(shapes[0]) == 3 else -1
    # Class attention adds its token after the blocks, so that they have patches only.
    counts = sorted({shape[1] for shape in shapes})
    if len(counts) > 1:
        raise refuse(model, spec, site=site, why=f"its layers have {' and '.join(map(str, counts))} tokens")
    if n_prefix not in (0, declared) or len(shapes) != len(trunk.blocks) or len(set(shapes)) > 1:
        raise refuse(model, spec, site=site)
    tokens = (getattr(part, "cls_token", None) for part in (trunk, getattr(trunk, "embeds", None)))
    class_token = n_prefix > 0 and any(token is not None for token in tokens)
    return BackboneInfo(
        timm_name=spec.timm_name,
        n_layers=len(shapes),
        channels=shapes[0][2],
        grid=grid,
        class_token=class_token,
        n_register=n_prefix - class_token,
        image_size=size,
        **preprocessing_of(model, spec)._asdict(),
        patch_size=size[0] // grid[0],
        n_tokens=grid[0] * grid[1] + class_token,
    )


def _note_shape(shapes: list[tuple[int, ...]], value: torch.Tensor) -> None:
    shapes.append(tuple(value.flatten(1, -2).shape))


def _input_size(model: Any, trunk: Any, spec: ModelSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (h, w) of the input in pixels and of the grid of patches."""
    embed = getattr(trunk, "patch_embed", None)
    own = getattr(embed, "img_size", None)
    asked = None if spec.image_size is None else (spec.image_size, spec.image_size)
    height, width = own or asked or model.pretrained_cfg["input_size"][1:]
    grid = getattr(embed, "grid_size", None)
    if grid is None:
        reduction = int(trunk.feature_info[-1]["reduction"])
        grid = (height // reduction, width // reduction)
    return (int(height), int(width)), (int(grid[0]), int(grid[1]))


def _hasten_linear_layers(model: nn.Module) -> None:
    """Let oneDNN compute what `nn.Linear` does, to rounding: where MKL holds AVX-512 back, in half the time."""
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.forward = functools.partial(linear, weight=layer.weight, bias=layer.bias)  # type: ignore[method-assign]
