"""The computation of `align --apply`: tokens and means of every slot mapped to the universal space, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.stages.device import settle_device
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.kinds.base import put_images
from aligncut_cli.store.kinds.features import POOLED, TOKENS, create_features
from aligncut_cli.store.nodes import Block, ModelAxes, Slot
from aligncut_cli.store.phases import Phase, node_phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.store.write import Writer, create_group

PROCESS_BYTES = 600_000_000


class ApplyStage:
    """One run of the stage: blocks of the features' own chunks."""

    def __init__(self, work: Work, source: Store, fitted: Store) -> None:
        self.work = work
        self.controls = collect_controls(source, fitted)
        self.space = FeatureSpace.of(source, fitted, settle_device(work))
        self.space.require()
        self.features, self.axes = self.space.features, self.space.axes
        self.width = self.space.width(comparable=True)
        self.images_per_block = self.features.images_per_chunk
        self.writer = Writer(work.staging)

    def plan(self) -> Plan:
        """Return the bytes of a block in float32 and of the store."""
        rows = max(self.images_per_block[model.name] * model.n_tokens for model in self.axes.models)
        return Plan(
            memory=PROCESS_BYTES + rows * self.width * 24,
            disk=self.axes.n_nodes * self.width * 2,
            notes={"nodes": self.axes.n_nodes},
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        blocks = self.axes.blocks(self.axes.slots, self.images_per_block)
        mapping = node_phase("map", self.axes, blocks, load=self.space.load, compute=self._map, write=self._write)
        return [single_step("create", self._create), mapping]

    # phases

    def _create(self) -> None:
        """Create the arrays; the means are mapped at once, as they are small."""
        root = create_group(self.work.staging)
        put_images(root, self.features.images(), self.features.image_attributes)
        for model in self.axes.models:
            pooled = self.features.has_pooled(model.name)
            create_features(
                root,
                model,
                (TOKENS, POOLED) if pooled else (TOKENS,),
                channels=self.width,
                images_per_block=self.images_per_block[model.name],
                kept_tokens=self.features.kept_tokens(model.name),
            )
            if pooled:
                self.writer.write(POOLED.at(model.name), ..., self._map_means(model))

    def _map_means(self, model: ModelAxes) -> NDArray[np.float32]:
        """Return the means of a model in the universal space, (layer, image, universal)."""
        means = self.features.read_pooled(model.name)
        mapped = np.empty((*means.shape[:2], self.width), dtype=np.float32)
        for position, layer in enumerate(model.layers):
            rows = torch.from_numpy(means[position]).to(self.space.device)
            mapped[position] = (rows @ self.space.weight(Slot(model.name, layer, position))).cpu().numpy()
        return mapped

    def _map(self, index: int, block: Block, rows: NDArray[np.float16]) -> NDArray[np.float16]:
        """Map every token of a block (Eq. 1)."""
        mapped: NDArray[np.float16] = self.space.map_rows(rows, block.slot).to(torch.float16).cpu().numpy()
        return mapped.reshape(-1, self.axes[block.slot.model].n_tokens, self.width)

    def _write(self, index: int, block: Block, mapped: NDArray[np.float16]) -> None:
        self.writer.write(TOKENS.at(block.slot.model), block.select(), mapped)

    # ending

    def finish(self) -> Outcome:
        """Give the store its name."""
        return self.work.finish(
            models=self.axes.names,
            summary={"nodes": self.axes.n_nodes, "universal_dim": self.width},
            controls=self.controls,
        )
