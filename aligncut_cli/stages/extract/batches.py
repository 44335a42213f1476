"""Runs the models over images, a batch of neighbouring blocks at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput
from aligncut_cli.images.decode import Copy, Pixels
from aligncut_cli.models.backbone import Backbone, BackboneInfo

Tokens = NDArray[np.float16]
Means = NDArray[np.float32]


def copy_for(info: BackboneInfo) -> Copy:
    """Return what a model wants of each image; models that want the same share it."""
    return Copy(*info.image_size, info.interpolation)


def describe_preparation(info: BackboneInfo) -> str:
    """Say in a line how a model's images are prepared."""
    mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (info.mean, info.std))
    height, width = info.image_size
    return f"images {height} x {width}, {info.interpolation}, mean {mean}, deviation {std}"


class Batch:
    """Neighbouring images whose features are computed together, when the first of them are asked for.

    images    : positions in the store
    ids       : of these images
    pictures  : by the model's kind of copy one (h, w, 3) uint8 of each image
    backbones : by model
    at_once   : how many images a model is given
    """

    def __init__(
        self,
        images: slice,
        ids: Sequence[str],
        pictures: Mapping[Copy, Sequence[Pixels]],
        backbones: Mapping[str, Backbone],
        *,
        at_once: int,
    ) -> None:
        self.images, self._ids, self._pictures = images, ids, pictures
        self._backbones, self._at_once = backbones, at_once

    def select(self, model: str, images: slice) -> tuple[Tokens, Means]:
        """Return tokens (layer, image, token, channel) and their means (layer, image, channel) of some of the images.

        images : positions in the store
        """
        tokens, means = self._features[model]
        local = slice(images.start - self.images.start, images.stop - self.images.start)
        return tokens[:, local], means[:, local]

    @cached_property
    def _features(self) -> dict[str, tuple[Tokens, Means]]:
        return {name: self._extract(name, backbone) for name, backbone in self._backbones.items()}

    def _extract(self, model: str, backbone: Backbone) -> tuple[Tokens, Means]:
        pictures = self._pictures[copy_for(backbone.info)]
        tokens, means = [], []
        for start in range(0, len(pictures), self._at_once):
            stack = torch.from_numpy(np.stack(pictures[start : start + self._at_once])).permute(0, 3, 1, 2)
            features = backbone.extract(stack)
            if not bool(features.finite.all()):
                layer, image = (features.finite.logical_not().nonzero()[0]).tolist()
                raise BadInput(
                    f"features of model {model}, layer {backbone.layers[layer]}, image "
                    f"{self._ids[start + image]} are not finite, or beyond the range of float16",
                    why="The weights may be damaged, or not belong to this architecture.",
                    do="Check --weights, or leave the layer out with --layers.",
                )
            tokens.append(features.tokens.cpu().numpy())
            means.append(features.pooled.cpu().numpy())
        if len(tokens) == 1:
            return tokens[0], means[0]
        return np.concatenate(tokens, axis=1), np.concatenate(means, axis=1)
