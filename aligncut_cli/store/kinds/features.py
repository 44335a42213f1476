"""Features: what every token of every (model, layer, image) is to a model, as extracted or mapped (stages 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligncut_cli.store.kinds.base import IMAGES, PER_BLOCK, Array, Kind, NodeStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


class Features(NodeStore):
    """A finished features store."""

    NODES = TOKENS

    def has_tokens(self, model: str) -> bool:
        """Return whether a model's single tokens were saved."""
        return self.store.has(TOKENS.at(model))

    def has_pooled(self, model: str) -> bool:
        """Return whether a model's means over tokens were saved."""
        return self.store.has(POOLED.at(model))

    def width(self, model: str) -> int:
        """Return the number of channels, D_i."""
        return int(self.store.array(TOKENS.at(model)).shape[3])

    def kept_tokens(self, model: str) -> NDArray[np.int32] | None:
        """Return which tokens were kept of each image, (image, token); None where all were."""
        name = TOKEN.at(model)
        return self.store.read(name) if self.store.has(name) else None
