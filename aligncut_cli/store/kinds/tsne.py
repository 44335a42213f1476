"""Tsne: places of all nodes on a map of eigenvectors, and their colours (stage 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligncut_cli.store.kinds.base import IMAGES, PER_BLOCK, Array, Kind, NodeStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_NODE = Array("sample/node", "int64", ("group", "sample"), {"group": 1}, about="flat index of each fitted node")
SAMPLE_EIGVECS = Array(
    "sample/eigvecs", "float32", ("group", "sample", "eig"), {"group": 1}, about="eigenvectors of the fitted nodes"
)
SAMPLE_COORDS = Array(
    "sample/coords", "float32", ("group", "sample", "dim"), {"group": 1}, about="where t-SNE placed them"
)
COORDS = Array(
    "{model}/coords",
    "float32",
    ("layer", "image", "token", "dim"),
    {"layer": 1, "image": PER_BLOCK},
    about="place of every node: that of its nearest fitted one",
)
RGB = Array(
    "{model}/rgb",
    "uint8",
    ("layer", "image", "token", "rgb"),
    {"layer": 1, "image": PER_BLOCK},
    about="colour of every node",
    when="--dims 3",
)
SAMPLE = (SAMPLE_NODE, SAMPLE_EIGVECS, SAMPLE_COORDS)
KIND = Kind("tsne", (*SAMPLE, COORDS, RGB, *IMAGES))


class Tsne(NodeStore):
    """A finished tsne store."""

    NODES = COORDS

    @property
    def n_dims(self) -> int:
        """Return 3 for colours, 2 for trajectories."""
        return int(self.store.record["params"]["dims"])

    @property
    def n_sample(self) -> int:
        """Return how many nodes of each map t-SNE was fitted on."""
        return int(self.store.array(SAMPLE_NODE.at()).shape[1])

    @property
    def colour_range(self) -> tuple[list[float], list[float]]:
        """Return the places that became 0 and 255, one per axis; the same for all maps of the store."""
        ends = self.store.record["colour_range"]
        return ends["low"], ends["high"]

    def read_sample_coords(self) -> NDArray[np.float32]:
        """Return where t-SNE placed the fitted nodes, (group, sample, dim); every node stands where one does."""
        return self.store.read(SAMPLE_COORDS.at())

    def read_colours(self, model: str, images: int | slice, *, layers: int | slice = slice(None)) -> NDArray[np.uint8]:
        """Read the colours of some images of a model without the class token: (layer, image, patch, rgb).

        layers, images : a number instead of a slice drops that axis
        """
        return self.patches(model, images, layers=layers, array=RGB.at(model))
