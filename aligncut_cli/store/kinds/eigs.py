"""Eigs: leading eigenvectors of the product graph's normalized affinity, of sampled nodes and of all (Eq. 3 and 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aligncut_cli.errors import BadInput
from aligncut_cli.store.kinds.base import IMAGES, PER_BLOCK, Array, Kind, NodeStore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from aligncut_cli.store.nodes import ModelAxes

EIGENVALUES = Array("eigenvalues", "float64", ("group", "eig"), {"group": 1}, about="of each graph, descending")
RESIDUAL = Array("residual", "float64", ("group", "eig"), {"group": 1}, about="of the sampled problem, per eigenvector")
SAMPLE_NODE = Array("sample/node", "int64", ("group", "sample"), {"group": 1}, about="flat index of each sampled node")
SAMPLE_DEGREE = Array("sample/degree", "float64", ("group", "sample"), {"group": 1}, about="row sums of the affinity")
SAMPLE_FEATURES = Array(
    "sample/features",
    "float32",
    ("group", "sample", "channel"),
    {"group": 1, "sample": 4096},
    about="unit rows of the sampled nodes, so that the store stands alone",
)
SAMPLE_EIGVECS = Array(
    "sample/eigvecs", "float32", ("group", "sample", "eig"), {"group": 1}, about="eigenvectors, unit columns (Eq. 3)"
)
ORTHOGONALIZER = Array(
    "sample/orthogonalizer",
    "float64",
    ("group", "eig", "orthogonal"),
    {"group": 1},
    about="what the carried eigenvectors were multiplied by",
    when="--orthogonalize",
)
EIGVECS = Array(
    "{model}/eigvecs",
    "float32",
    ("layer", "image", "token", "eig"),
    {"layer": 1, "image": PER_BLOCK},
    about="eigenvectors carried to every node (Eq. 4)",
)
CENTRE = Array(
    "{model}/centre",
    "float32",
    ("layer", "channel"),
    {"layer": 1},
    about="mean token of each slot as extracted, which was subtracted",
    when="--centre slot",
)
SOLVED = (EIGENVALUES, RESIDUAL, SAMPLE_NODE, SAMPLE_DEGREE, SAMPLE_FEATURES, SAMPLE_EIGVECS)
KIND = Kind("eigs", (*SOLVED, ORTHOGONALIZER, EIGVECS, CENTRE, *IMAGES))

# while the stage runs
CARRIED = Array("{model}/carried", "float32", EIGVECS.axes, EIGVECS.cut)
GRAM = Array("gram", "float64", ("block", "eig", "eig2"), {"block": 1})
ROW_SUM = Array(
    "{model}/row_sum", "float64", ("layer", "image", "eig"), EIGVECS.cut, about="of the final rows of an image's tokens"
)
ROW_SQUARE = Array("{model}/row_square", "float64", ("layer", "image"), EIGVECS.cut, about="sum of squares of the same")


class Eigs(NodeStore):
    """A finished eigs store."""

    NODES = EIGVECS

    @property
    def n_eig(self) -> int:
        """Return C, the number of eigenvectors."""
        return int(self.store.array(EIGENVALUES.at()).shape[1])

    @property
    def n_sample(self) -> int:
        """Return m, the number of sampled nodes of each graph."""
        return int(self.store.array(SAMPLE_NODE.at()).shape[1])

    def read_centre(self, model: ModelAxes) -> NDArray[np.float32]:
        """Return the mean tokens that were subtracted from a model's slots, (layer, channel), in the model's layers.

        raises : BadInput where a slot is not in this store
        """
        known = self.axes[model.name].layers if model.name in self.axes.names else ()
        for layer in model.layers:
            if layer not in known:
                raise BadInput(
                    f"{self.store.path} has no mean token of {model.name}:{layer} to centre by",
                    do="Extend it with images of the models and layers that it was made of.",
                )
        values = self.store.read(CENTRE.at(model.name))
        return values[[known.index(layer) for layer in model.layers]]
