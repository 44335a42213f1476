"""`--check`: the residual of random rows of the full graph, beside that which exact eigenvectors would show there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.maths.propagate import ResidualCheck
from aligncut_cli.stages.eigs.sample import gather_unit_rows
from aligncut_cli.stages.sample import choose_nodes
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.kinds.eigs import EIGVECS
from aligncut_cli.store.nodes import Block, Slot
from aligncut_cli.store.phases import load_ahead
from aligncut_cli.store.write import Writer


def check_residual(
    space: FeatureSpace,
    writer: Writer,
    slots: Sequence[Slot],
    blocks: Sequence[Block],
    *,
    eigenvalues: NDArray[np.float64],
    dim: int,
    n_rows: int,
    seed: int,
    console: Console,
    label: str,
) -> dict[str, Any]:
    """Check the eigenvectors of one graph that a store under construction holds, in one pass over all its nodes.

    slots, blocks : of the graph
    eigenvalues   : (C,) of its sampled problem
    dim           : channels of its unit rows
    n_rows        : rows to check, at most; drawn by the seed
    returns       : as JSON, rows checked, and per eigenvector residual, noise and rayleigh; see `ResidualReport`
    """
    n_nodes = space.axes.n_group_nodes(slots)
    nodes = choose_nodes(space.features, slots, min(n_rows, n_nodes), seed=seed, purpose="check")
    unit = gather_unit_rows(space, slots, nodes, dim=dim, console=console, label=label)
    carried = torch.from_numpy(_read_carried(space, writer, blocks, nodes)).to(space.device)
    check = ResidualCheck(
        torch.from_numpy(unit).to(space.device), carried, eigenvalues=eigenvalues, n_nodes=n_nodes, seed=seed
    )
    with console.progress(label, n_nodes, unit="nodes") as progress:
        for block, features in load_ahead(blocks, space.load):
            eigvecs = writer.read(EIGVECS.at(block.slot.model), block.select())
            flat = torch.from_numpy(eigvecs.reshape(-1, len(eigenvalues))).to(space.device)
            check.add(space.unit_rows(features, block.slot), flat)
            progress.advance(len(flat))
    report = check.result()
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
