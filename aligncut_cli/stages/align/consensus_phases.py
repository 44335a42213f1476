"""The computation of `align --target consensus` without responses: what the slots share, and maps to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from aligncut_cli.console import Console
from aligncut_cli.errors import UsageError
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.maths.split_images import ImageSplit
from aligncut_cli.params import AlignParams, RunOptions
from aligncut_cli.stages.align.consensus import SharedMaps, estimate_memory, find_consensus, format_consensus
from aligncut_cli.stages.align.data import FeatureData
from aligncut_cli.store.kinds.alignment import CONSENSUS_R2, SHARED, WEIGHT, create_maps
from aligncut_cli.store.kinds.features import Features
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store
from aligncut_cli.store.run import Outcome, Plan, Work, write_json
from aligncut_cli.store.write import Writer, create_group

PROCESS_BYTES = 600_000_000


class ConsensusStage:
    """One run of the stage."""

    def __init__(self, work: Work, source: Store, params: AlignParams, options: RunOptions, console: Console) -> None:
        if params.control == "random" or params.folds > 1 or params.seeds > 1 or params.repeat > 1:
            raise UsageError(
                "a consensus without responses takes neither --folds, --seeds, --repeat nor --control random",
                do="Leave them out; --control shuffle exchanges the images of each slot.",
            )
        self.work, self.params, self.console = work, params, console
        self.device = resolve_device(options.device)
        features = Features(source)
        self.data = FeatureData(features, np.arange(len(features.ids)), params)
        self.controls = [] if params.control == "none" else [params.control]
        self.writer = Writer(work.staging)

    def plan(self) -> Plan:
        """Return the bytes of the sampled tokens and of the search."""
        data, split = self.data, self.data.splits[0]
        pooled = data.n_channels * data.n_images * 4
        return Plan(
            memory=PROCESS_BYTES + pooled + estimate_memory(data.features, self.params),
            disk=data.n_channels * self.params.channels * 4,
            notes={
                "images": data.n_images,
                "split": f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test",
            },
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        return [single_step("create", self._create), single_step("consensus", self._find)]

    def _create(self) -> None:
        root = create_group(self.work.staging)
        sizes = {"universal": self.params.channels, "bound": 3}
        create_maps(root, self.data.features.axes, self.data.channels, [CONSENSUS_R2], sizes)
        SHARED.create(root, sizes)

    def _find(self) -> None:
        maps = find_fold_consensus(self.data, 0, device=self.device, console=self.console)
        write_consensus(self.writer, self.data, maps)
        for model, weight in zip(self.data.models, maps.weights, strict=True):
            self.writer.write(WEIGHT.at(model.name), ..., weight.numpy())
        write_json(self.work.wip / "consensus-0.json", maps.record)

    def finish(self) -> Outcome:
        """Give the store its name, and show what is shared on held-out images."""
        record = json.loads((self.work.wip / "consensus-0.json").read_text(encoding="utf-8"))
        summary = {"target": "consensus", "images": self.data.n_images, "consensus": record}
        return self.work.finish(
            models=self.data.features.axes.names,
            summary=summary,
            said=format_consensus(record, self.controls),
            controls=self.controls,
            responses={},
        )


def find_fold_consensus(data: FeatureData, fold: int, *, device: torch.device, console: Console) -> SharedMaps:
    """Find the consensus of the slots on a fold's training images."""
    own = data.splits[fold]
    split = ImageSplit(*(data.rows[part] for part in (own.train, own.validation, own.test)))
    params = replace(data.params, control=data.params.control if data.params.control == "shuffle" else "none")
    means = data.average_tokens(own)
    return find_consensus(data.features, split, params, means=means, device=device, console=console)


def write_consensus(writer: Writer, data: FeatureData, maps: SharedMaps) -> None:
    """Write the scores of a consensus."""
    writer.write(SHARED.at(), ..., maps.shared)
    for model, r2 in zip(data.models, maps.r2, strict=True):
        writer.write(CONSENSUS_R2.at(model.name), ..., r2)
