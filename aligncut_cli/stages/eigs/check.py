"""`--check`: the residual of random rows of the full graph, beside that which exact eigenvectors would show there.

The rows of each graph are chosen once; each slot's nodes are then gone over by themselves, and the slots' sums added up
in their order, so that the result does not depend on who made them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.maths.propagate import ResidualCheck, ResidualSums
from aligncut_cli.params import EigsParams
from aligncut_cli.stages.eigs.layout import Layout
from aligncut_cli.stages.eigs.sample import gather_unit_rows
from aligncut_cli.stages.sample import choose_nodes
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.kinds.eigs import EIGENVALUES, EIGVECS
from aligncut_cli.store.nodes import Block
from aligncut_cli.store.phases import load_ahead
from aligncut_cli.store.write import Writer

SUMS = ("image", "degrees", "noise")
"""Tensors of `ResidualSums`, as they are kept."""


class GraphCheck:
    """Checks the eigenvectors of every graph that a store under construction holds.

    folder : where chosen rows and the slots' sums wait for each other
    parts  : graph and slot of each part of the pass over all nodes
    """

    def __init__(
        self, space: FeatureSpace, layout: Layout, writer: Writer, folder: Path, params: EigsParams, console: Console
    ) -> None:
        self.space, self.layout, self.writer, self.folder = space, layout, writer, folder
        self.params, self.console = params, console
        self.parts = [(group, slot) for group, (_, slots) in enumerate(layout.groups) for slot in slots]

    def choose(self, group: int) -> None:
        """Choose the rows of a graph that are checked, and keep their features and eigenvectors."""
        slots, n_nodes, seed = self.layout.groups[group][1], self.layout.sizes[group], self.params.seed
        nodes = choose_nodes(self.space.features, slots, min(self.params.check, n_nodes), seed=seed, purpose="check")
        label = f"check {self.layout.names[group]}"
        unit = gather_unit_rows(self.space, slots, nodes, dim=self.layout.dim, console=self.console, label=label)
        carried = _read_carried(self.space, self.writer, self.layout.blocks_of(group), nodes)
        np.savez(self.folder / f"checked-{group}.npz", unit=unit, carried=carried)

    def _open(self, group: int) -> ResidualCheck:
        device = self.space.device
        with np.load(self.folder / f"checked-{group}.npz") as saved:
            unit, carried = (torch.from_numpy(saved[name]).to(device) for name in ("unit", "carried"))
        eigenvalues, n_nodes = self.writer.read(EIGENVALUES.at(), group), self.layout.sizes[group]
        return ResidualCheck(unit, carried, eigenvalues=eigenvalues, n_nodes=n_nodes, seed=self.params.seed)

    def add(self, index: int) -> None:
        """Add up what one slot's nodes give to the rows of its graph."""
        group, slot = self.parts[index]
        check = self._open(group)
        sums = check.no_sums()
        blocks = [block for block in self.layout.blocks_of(group) if block.slot == slot]
        with self.console.progress(f"check {slot}", self.space.axes.n_group_nodes([slot]), unit="nodes") as progress:
            for block, features in load_ahead(blocks, self.space.load):
                eigvecs = self.writer.read(EIGVECS.at(slot.model), block.select())
                flat = torch.from_numpy(eigvecs.reshape(-1, self.params.n_eig)).to(self.space.device)
                check.add(sums, self.space.unit_rows(features, slot), flat)
                progress.advance(len(flat))
        arrays = {name: getattr(sums, name).cpu().numpy() for name in SUMS}
        np.savez(self.folder / f"check-{index}.npz", seen=sums.seen, **arrays)

    def report(self, group: int) -> dict[str, Any]:
        """Return as JSON the rows checked, and per eigenvector residual, noise and rayleigh; see `ResidualReport`."""
        check = self._open(group)
        total = check.no_sums()
        for index, (own, _) in enumerate(self.parts):
            if own == group:
                with np.load(self.folder / f"check-{index}.npz") as saved:
                    image, degrees, noise = (torch.from_numpy(saved[name]).to(self.space.device) for name in SUMS)
                    total.merge(ResidualSums(image, degrees, noise, int(saved["seen"])))
        report = check.result(total)
        return {
            "rows": report.n_rows,
            "residual": report.residuals.tolist(),
            "noise": report.noise.tolist(),
            "rayleigh": report.eigenvalues.tolist(),
        }


def _read_carried(
    space: FeatureSpace, writer: Writer, blocks: Sequence[Block], nodes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the written eigenvectors of some nodes, (n, C); only blocks that hold one are read.

    blocks : of all nodes of the graph, in order
    nodes  : flat indices, ascending
    """
    parts = []
    for block in blocks:
        places = space.axes.locate(nodes, block.slot)
        own = places[(places[:, 0] >= block.images.start) & (places[:, 0] < block.images.stop)]
        if len(own):
            values = writer.read(EIGVECS.at(block.slot.model), block.select())
            parts.append(values[own[:, 0] - block.images.start, own[:, 1]])
    return np.concatenate(parts)
