"""Where in a block of a ViT features are taken: what joins the residual stream, or the stream, or queries to values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Keep = Callable[[torch.Tensor], None]


@dataclass(frozen=True)
class Tap:
    """A module that is listened to, and what of its call is taken.

    module : of which the value is read when it has been called
    value  : given the module's positional arguments and its output
    first  : whether the first call in a block counts, of several; otherwise the last
    """

    module: nn.Module
    value: Callable[[tuple[Any, ...], Any], torch.Tensor]
    first: bool = True


def taps_of(block: Any, site: str) -> list[Tap]:
    """Return what to listen to in a block; the values of all taps add up to the feature. Empty where there is none.

    site : `attn` or `mlp`, what that branch adds to the residual stream, layer scale and later norms included;
           `block`, the stream after the block; `qkv`, queries, keys and values before their norm and rotation
    """
    if site == "block":
        return [Tap(block, _output)]
    if site == "qkv":
        return _tap_projections(getattr(block, "attn", None))
    first = site == "attn"
    if hasattr(block, "attn_in"):  # TNT: the first pair of branches is that of the pixels inside a patch
        return [Tap(block.attn_out if first else block.mlp, _output)]
    if isinstance(getattr(block, "attns", None), nn.ModuleList):
        return [Tap(branch, _output) for branch in getattr(block, "attns" if first else "ffns")]
    if hasattr(block, "in_split"):
        return _tap_parallel(block, first=first)
    if not any(hasattr(block, name) for name in ("attn", "token_mixer")):
        return []
    if first and getattr(block, "window_size", None) and hasattr(block, "norm2"):
        return _tap_difference(block)
    own = getattr(block, "drop_path1" if first else "drop_path2", None)
    if own is not None:
        return [Tap(own, _output)]
    # One module for both branches, called once for each.
    shared = getattr(block, "drop_path", None)
    return [] if shared is None else [Tap(shared, _output, first=first)]


def listen(stack: ExitStack, blocks: Sequence[tuple[Any, Keep]], site: str) -> None:
    """Have each block's feature handed over as soon as it is known, until the stack is closed.

    blocks : each block with the function that is given its (B, N, C) or (B, H, W, C)
    """
    for block, keep in blocks:
        heard = _Heard(taps_of(block, site), keep)
        for index, tap in enumerate(heard.taps):
            stack.enter_context(tap.module.register_forward_hook(heard.hook(index)))
        if any(not tap.first for tap in heard.taps):
            stack.enter_context(block.register_forward_hook(heard.hand_over))


class _Heard:
    """Adds up the values of one block's taps during one pass."""

    def __init__(self, taps: Sequence[Tap], keep: Keep) -> None:
        self.taps, self._keep = taps, keep
        self._values: dict[int, torch.Tensor] = {}
        self._handed_over = False

    def hook(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        tap = self.taps[index]

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if self._handed_over:
                return
            self._values[index] = tap.value(args, output)
            if tap.first and len(self._values) == len(self.taps):
                self.hand_over()

        return hook

    def hand_over(self, *call: Any) -> None:
        total, *others = (self._values.pop(index) for index in range(len(self.taps)))
        for value in others:
            total = total + value
        self._handed_over = True
        self._keep(total)


def _output(args: tuple[Any, ...], output: Any) -> torch.Tensor:
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"gives a {type(output).__name__}, not one tensor")
    return output


def _tap_difference(block: Any) -> list[Tap]:
    """The attention works in windows (SAM): take the stream after it minus the stream before it."""
    return [
        Tap(block.norm1, lambda args, output: -args[0].flatten(1, -2)),
        Tap(block.norm2, lambda args, output: args[0].flatten(1, -2)),
    ]


def _tap_parallel(block: Any, *, first: bool) -> list[Tap]:
    """Attention and MLP side by side, with one layer scale over their sum; the projections' outputs are added.

    Where one matrix projects both, its columns are split; its bias, which is neither's alone, is counted to attention.
    """
    if block.out_proj is None:
        projection = block.attn_out_proj if first else block.mlp_out_proj
        return [Tap(projection, lambda args, output: block.ls(output))]
    width = block.out_proj.out_features

    def part(args: tuple[Any, ...], output: Any) -> torch.Tensor:
        columns = slice(width) if first else slice(width, None)
        bias = block.out_proj.bias if first else None
        branch: torch.Tensor = block.ls(F.linear(args[0][..., columns], block.out_proj.weight[:, columns], bias))
        return branch

    return [Tap(block.out_proj, part)]


def _tap_projections(attention: Any) -> list[Tap]:
    """Queries, keys and values side by side, computed from the attention's own input."""
    separate = [getattr(attention, name, None) for name in ("q_proj", "k_proj", "v_proj")]
    linear = [layer for layer in separate if isinstance(layer, nn.Linear)]
    if len(linear) == 3:
        return [Tap(attention, lambda args, output: torch.cat([layer(args[0]) for layer in linear], dim=-1))]
    if not isinstance(getattr(attention, "qkv", None), nn.Linear):
        return []
    if getattr(attention, "q_bias", None) is None:
        return [Tap(attention.qkv, _output)]

    def biased(args: tuple[Any, ...], output: Any) -> torch.Tensor:
        bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
        return F.linear(args[0], attention.qkv.weight, bias)

    return [Tap(attention, biased)]
