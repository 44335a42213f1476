"""The computation of `align --apply`: tokens and means of every slot mapped to the universal space, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.params import RunOptions
from aligncut_cli.stages.sample import stream_blocks
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.nodes import Block
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.store.write import Writer, create_array, create_group, create_node_arrays, put, put_images

PROCESS_BYTES = 600_000_000


class ApplyPhases:
    """One run of the stage: blocks of the features' own chunks."""

    def __init__(self, work: Work, source: Store, fitted: Store, options: RunOptions, console: Console) -> None:
        self.work, self.source, self.fitted, self.console = work, source, fitted, console
        self.space = FeatureSpace.of(source, fitted, resolve_device(options.device))
        self.axes = source.axes

    def run(self) -> Outcome:
        """Plan, map every block that is not done, and finish."""
        self.space.require()
        width = self.space.width(comparable=True)
        per_block = self.space.images_per_read()
        blocks = self.axes.blocks(self.axes.slots, per_block)
        rows = max(per_block[model.name] * model.n_tokens for model in self.axes.models)
        plan = Plan(
            phases={"create": 1, "map": len(blocks)},
            memory=PROCESS_BYTES + rows * width * 24,
            disk=self.axes.n_nodes * width * 2,
            notes={"nodes": self.axes.n_nodes},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        if not self.work.done("create"):
            self._create(width, per_block)
            self.work.mark("create")
        writer = Writer(self.work.staging)

        def compute(index: int, block: Block, values: NDArray[Any]) -> None:
            mapped = self.space.map_rows(values, block.slot).to(torch.float16).cpu().numpy()
            shape = (-1, self.axes[block.slot.model].n_tokens, width)
            writer.write(f"{block.slot.model}/tokens", block.select(), mapped.reshape(shape))

        stream_blocks(
            self.work, "map", blocks, load=self.space.load, compute=compute, axes=self.axes, console=self.console
        )
        return self.work.finish(
            models=self.axes.names,
            summary={"nodes": self.axes.n_nodes, "universal_dim": width},
            controls=collect_controls(self.source, self.fitted),
        )

    def _create(self, width: int, per_block: dict[str, int]) -> None:
        """Create the arrays; the means are mapped at once, as they are small."""
        root = create_group(self.work.staging)
        put_images(root, self.source.images(), self.source.group["images"].attrs.asdict())
        create_node_arrays(
            root, self.axes, "tokens", dtype="float16", last=("channel", width), images_per_block=per_block
        )
        for model in self.axes.models:
            name = f"{model.name}/pooled"
            if self.source.has(name):
                pooled = self.source.read(name)
                chunks = (len(model.layers), self.source.array(name).chunks[1], width)
                mapped = np.empty((*pooled.shape[:2], width), dtype=np.float32)
                for slot in (slot for slot in self.axes.slots if slot.model == model.name):
                    rows = torch.from_numpy(pooled[slot.position]).to(self.space.device)
                    mapped[slot.position] = (rows @ self.space.weight(slot)).cpu().numpy()
                create_array(
                    root, name, shape=mapped.shape, dtype="float32", dims=["layer", "image", "channel"], chunks=chunks
                )[...] = mapped
            if self.source.has(f"{model.name}/token"):
                put(root, f"{model.name}/token", self.source.read(f"{model.name}/token"), ["image", "token"])
