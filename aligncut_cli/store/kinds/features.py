"""Features: what every token of every (model, layer, image) is to a model, as extracted or mapped (stages 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aligncut_cli.store.kinds.base import (
    IMAGES,
    PER_BLOCK,
    Array,
    Kind,
    NodeStore,
    model_sizes,
    require_model_group,
)

if TYPE_CHECKING:
    import numpy as np
    import zarr
    from numpy.typing import NDArray

    from aligncut_cli.store.nodes import ModelAxes

TOKENS = Array(
    "{model}/tokens",
    "float16",
    ("layer", "image", "token", "channel"),
    {"layer": 1, "image": PER_BLOCK},
    about="what the attention block adds to the residual stream (V of Eq. 1)",
    when="unless --save pooled",
)
POOLED = Array(
    "{model}/pooled",
    "float32",
    ("layer", "image", "channel"),
    {"image": PER_BLOCK},
    about="their mean over all tokens",
    when="unless --save tokens",
)
TOKEN = Array("{model}/token", "int32", ("image", "token"), about="which tokens were kept", when="--sample-tokens")
KIND = Kind("features", (TOKENS, POOLED, TOKEN, *IMAGES))


def create_features(
    root: zarr.Group,
    model: ModelAxes,
    arrays: Iterable[Array],
    *,
    channels: int,
    images_per_block: int,
    kept_tokens: NDArray[np.int32] | None,
) -> None:
    """Create the arrays of a model in a store under construction, and write which of its tokens were kept.

    arrays           : TOKENS, POOLED or both
    channels         : of their rows
    images_per_block : how many images one chunk holds
    kept_tokens      : (image, token), increasing; None where all were kept
    """
    require_model_group(root, model)
    sizes = {**model_sizes(model, images_per_block), "channel": channels}
    for array in arrays:
        array.create(root, sizes, model.name)
    if kept_tokens is not None:
        TOKEN.put(root, kept_tokens, model.name)


class Features(NodeStore):
    """A finished features store."""

    NODES = TOKENS

    def has_tokens(self, model: str) -> bool:
        """Return whether a model's single tokens were saved."""
        return self.store.has(TOKENS.at(model))

    def has_pooled(self, model: str) -> bool:
        """Return whether a model's means over tokens were saved."""
        return self.store.has(POOLED.at(model))

    @property
    def image_attributes(self) -> dict[str, Any]:
        """Return what is said of the images as a whole: which were `skipped`, and why."""
        attributes: dict[str, Any] = self.store.group["images"].attrs.asdict()
        return attributes

    def width(self, model: str) -> int:
        """Return the number of channels, D_i."""
        return int(self.store.array(TOKENS.at(model)).shape[3])

    def kept_tokens(self, model: str) -> NDArray[np.int32] | None:
        """Return which tokens were kept of each image, (image, token); None where all were."""
        name = TOKEN.at(model)
        return self.store.read(name) if self.store.has(name) else None

    def read_tokens(self, model: str, images: slice) -> NDArray[np.float16]:
        """Read some images in every layer, (layer, image, token, channel), the class token included."""
        return self.store.read(TOKENS.at(model), (slice(None), images))

    def read_pooled(self, model: str, images: slice = slice(None)) -> NDArray[np.float32]:
        """Read the means over tokens of all images or of some, (layer, image, channel)."""
        return self.store.read(POOLED.at(model), (slice(None), images))

    def pooled_per_chunk(self, model: str) -> int:
        """Return how many images one chunk of the means over tokens holds."""
        return int(self.store.array(POOLED.at(model)).chunks[1])
