"""Chooses the sampled nodes of a graph, at random or by farthest points, with their unit features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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


def choose_candidates(
    space: FeatureSpace, slots: Sequence[Slot], count: int, *, method: str, seed: int
) -> NDArray[np.int64]:
    """Return flat indices (n,), ascending, of `count` nodes, or for `fps` of those among which it will choose."""
    size = min(FPS_POOL * count, space.axes.n_group_nodes(slots)) if method == "fps" else count
    return choose_nodes(space.features, slots, size, seed=seed, purpose="sample")


def choose_sample(
    nodes: NDArray[np.int64], rows: NDArray[np.float32], count: int, *, method: str, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Choose `count` of the candidates.

    nodes   : (n,) flat indices, ascending
    rows    : (n, D) their unit rows
    method  : `uniform`, which takes them all, or `fps`: farthest points in a random projection
    returns : flat indices (m,), ascending, and unit rows (m, D)
    """
    if method != "fps":
        return nodes, rows
    chosen = choose_farthest(rows, count, seed=seed)
    return nodes[chosen], rows[chosen]


class GatheredParts:
    """Unit rows of the candidates, gathered slot by slot by several workers and kept in a folder meanwhile.

    parts : graph and slot of each, in the order of the nodes
    """

    def __init__(self, folder: Path, groups: Sequence[tuple[str, Sequence[Slot]]]) -> None:
        self.folder = folder
        self.parts = [(group, slot) for group, (_, slots) in enumerate(groups) for slot in slots]

    def write_nodes(self, group: int, nodes: NDArray[np.int64]) -> None:
        """Keep the candidates of a graph."""
        np.save(self._nodes(group), nodes)

    def read_nodes(self, group: int) -> NDArray[np.int64]:
        """Return the candidates of a graph, (n,) flat indices, ascending."""
        nodes: NDArray[np.int64] = np.load(self._nodes(group))
        return nodes

    def gather(self, index: int, space: FeatureSpace, *, dim: int, console: Console) -> None:
        """Gather the rows of those candidates that lie in one part's slot."""
        group, slot = self.parts[index]
        nodes, first = self.read_nodes(group), space.axes.first_node(slot)
        low, high = np.searchsorted(nodes, [first, first + space.axes.n_group_nodes([slot])])
        rows = gather_unit_rows(space, [slot], nodes[low:high], dim=dim, console=console, label="sample")
        np.save(self._rows(index), rows)

    def read_rows(self, group: int) -> NDArray[np.float32]:
        """Return the rows of a graph's candidates, (n, D), in the order of the nodes."""
        return np.concatenate([np.load(self._rows(at)) for at, (own, _) in enumerate(self.parts) if own == group])

    def _nodes(self, group: int) -> Path:
        return self.folder / f"nodes-{group}.npy"

    def _rows(self, index: int) -> Path:
        return self.folder / f"rows-{index}.npy"
