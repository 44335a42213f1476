"""Sums of the final eigenvectors' rows, kept block by block, and the shares of variance that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.variance_shares import Shares, VarianceShares
from aligncut_cli.store.kinds.base import Sizes, create_node_arrays
from aligncut_cli.store.kinds.eigs import ROW_SQUARE, ROW_SUM
from aligncut_cli.store.nodes import Block, NodeAxes, Slot, image_slices
from aligncut_cli.store.write import Writer

if TYPE_CHECKING:
    import zarr


def create_sums(scratch: zarr.Group, axes: NodeAxes, sizes: Sizes, *, images_per_block: Mapping[str, int]) -> None:
    """Create what `write_sums` writes into."""
    create_node_arrays(scratch, axes, [ROW_SUM, ROW_SQUARE], sizes, images_per_block=images_per_block)


def write_sums(scratch: Writer, block: Block, values: NDArray[np.float32]) -> None:
    """Keep the sums of a block's rows.

    values : (image, token, eig)
    """
    rows = values.astype(np.float64)
    scratch.write(ROW_SUM.at(block.slot.model), block.select(), rows.sum(axis=1))
    scratch.write(ROW_SQUARE.at(block.slot.model), block.select(), np.square(rows).sum(axis=(1, 2)))


def measure_shares(
    scratch: Writer, axes: NodeAxes, slots: Sequence[Slot], images_per_block: Mapping[str, int]
) -> Shares:
    """Return the shares of one graph's embedding, from the sums of all its blocks in the order of photos."""
    shares = VarianceShares(np.array([axes[slot.model].n_tokens for slot in slots]))
    n_images, step = axes.models[0].n_images, max(images_per_block.values())
    for images in image_slices(n_images, step):
        sums, squares = (
            np.stack([scratch.read(array.at(slot.model), (slot.position, images)) for slot in slots])
            for array in (ROW_SUM, ROW_SQUARE)
        )
        shares.add(sums, squares)
    return shares.result()
