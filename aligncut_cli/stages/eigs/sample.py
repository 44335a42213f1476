"""Chooses the sampled nodes of a graph, at random or by farthest points, with their unit features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.maths.sampling import FPS_POOL, choose_farthest
from aligncut_cli.stages.sample import choose_nodes, iterate_rows
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.nodes import Slot


def gather_unit_rows(
    space: FeatureSpace, slots: Sequence[Slot], nodes: NDArray[np.int64], *, dim: int, console: Console, label: str
) -> NDArray[np.float32]:
    """Return unit rows of some nodes in the space asked for, (n, D)."""
    out = np.empty((len(nodes), dim), dtype=np.float32)
    for slot, where, rows in iterate_rows(space.features, slots, nodes, console=console, label=label):
        if not np.isfinite(rows).all():
            raise BadInput(f"{space.path}: features of {slot} are not finite", do="Extract again.")
        out[where] = space.unit_rows(rows, slot).cpu().numpy()
    return out


def sample_graph(
    space: FeatureSpace, slots: Sequence[Slot], count: int, *, method: str, seed: int, dim: int, console: Console
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Choose `count` nodes of a graph.

    method  : `uniform`, or `fps`: farthest points in a random projection of a larger uniform sample
    returns : flat indices (m,), ascending, and unit rows (m, D)
    """
    size = count
    if method == "fps":
        size = min(FPS_POOL * count, space.axes.n_group_nodes(slots))
    nodes = choose_nodes(space.features, slots, size, seed=seed, purpose="sample")
    rows = gather_unit_rows(space, slots, nodes, dim=dim, console=console, label="sample")
    if method != "fps":
        return nodes, rows
    chosen = choose_farthest(rows, count, seed=seed)
    return nodes[chosen], rows[chosen]
