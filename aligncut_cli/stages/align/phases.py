"""The computation of `align`: fit every seed to the same data, score it on held-out images, and write the maps."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from aligncut_cli.brain.responses import load_responses
from aligncut_cli.console import Console
from aligncut_cli.maths.alignment_fit import FitSettings, restore_units
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.maths.encoding import AlignmentMaps
from aligncut_cli.params import AlignParams, RunOptions
from aligncut_cli.stages.align.data import NODE_IMAGES, NODE_TOKENS, AlignmentData
from aligncut_cli.stages.align.fit import Baseline, Checkpoint, fit_alignment
from aligncut_cli.stages.align.scores import format_scores, score_baseline, score_maps, summarize_scores
from aligncut_cli.stages.inputs import ResponsePaths
from aligncut_cli.store.kinds.alignment import (
    BIAS,
    R2,
    READOUT,
    RIDGE_R,
    RIDGE_R2,
    SEED_R,
    SEED_R2,
    WEIGHT,
    R,
    create_alignment,
)
from aligncut_cli.store.kinds.features import Features
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store
from aligncut_cli.store.run import Outcome, Plan, Work, write_json
from aligncut_cli.store.write import Writer, create_group

PROCESS_BYTES = 700_000_000
PRECISE_IMAGES = 4096  # up to so many the kernel of the ridge is float64


class AlignStage:
    """One run of the stage: a fit per seed, each with checkpoints after its epochs."""

    def __init__(
        self,
        work: Work,
        source: Store,
        paths: ResponsePaths,
        params: AlignParams,
        options: RunOptions,
        console: Console,
    ) -> None:
        self.work, self.params, self.console = work, params, console
        self.synthetic = paths.are_synthetic()
        self.controls = [] if params.control == "none" else [params.control]
        self.device = resolve_device(options.device)
        self.responses = load_responses(
            paths.responses,
            image_ids=paths.image_ids,
            rois=paths.rois,
            noise_ceiling=paths.noise_ceiling,
            drop_nan_voxels=params.drop_nan_voxels,
        )
        self.data = AlignmentData(Features(source), self.responses, params)
        self.writer = Writer(work.staging)

    def plan(self) -> Plan:
        """Return the bytes of all inputs and of the larger of ridge and fit."""
        data, split = self.data, self.data.split
        maps = self.params.universal_dim * (data.n_channels + data.n_voxels)
        pooled = data.n_channels * data.n_images * 4
        nodes = data.n_channels * 2 * NODE_TOKENS * NODE_IMAGES
        kernel = 8 if len(split.train) <= PRECISE_IMAGES else 4
        return Plan(
            memory=PROCESS_BYTES
            + pooled
            + nodes
            + 2 * data.n_images * data.n_voxels * 4
            + max(6 * maps * 4, 4 * kernel * data.n_images * len(split.train)),
            disk=7 * maps * 4,
            notes={
                "images": data.n_images,
                "split": f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test",
                "voxels": data.n_voxels,
            },
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        seeds = range(self.params.seeds)
        return [
            single_step("create", self._create),
            Phase("fit", seeds, self._fit, feed=self._measure, parallel=True),
        ]

    # phases

    def _create(self) -> None:
        create_alignment(
            create_group(self.work.staging),
            self.data.features.axes,
            self.data.channels,
            universal=self.params.universal_dim,
            voxels=self.data.n_voxels,
            seeds=self.params.seeds,
            rois=self.responses.rois,
            ceiling=self.responses.noise_ceiling,
        )

    @contextlib.contextmanager
    def _measure(self, pending: Sequence[int]) -> Iterator[Iterator[Baseline]]:
        """Give every fit the same baseline, which is measured once."""
        for control in self.controls:
            self.console.warn(f"control: {control} targets stand in for the responses. This is recorded.")
        data = self.data
        baseline = Baseline(data.pooled, data.targets.values, data.split, device=self.device, console=self.console)
        yield itertools.repeat(baseline, len(pending))

    def _fit(self, index: int, number: int, baseline: Baseline) -> None:
        """Fit one seed from its checkpoint or from the closed-form start, and write its scores."""
        data = self.data
        fit = fit_alignment(
            data.pooled,
            data.targets.values,
            data.nodes,
            data.split,
            self._settings(number),
            universal_dim=self.params.universal_dim,
            device=self.device,
            console=self.console,
            baseline=baseline,
            checkpoint=Checkpoint(self.work.scratch / f"fit-{number}.safetensors", self.console),
        )
        maps = restore_units(fit.best, data.targets.mean, data.targets.deviation)
        r2, r = score_maps(data, maps)
        self.writer.write(SEED_R2.at(), number, r2)
        self.writer.write(SEED_R.at(), number, r)
        if number == 0:
            ridge_r2, ridge_r = score_baseline(data, baseline)
            for score, values in ((R2, r2), (R, r), (RIDGE_R2, ridge_r2), (RIDGE_R, ridge_r)):
                self.writer.write(score.at(), ..., values)
            self._write_maps(maps)
        history = [vars(record) for record in fit.history]
        write_json(self.work.wip / f"fit-{number}.json", {"best": vars(fit.best_record), "history": history})

    def _settings(self, number: int) -> FitSettings:
        return FitSettings(
            lambda_eigen=self.params.lambda_eigen,
            lambda_zero=self.params.lambda_zero,
            lambda_cov=self.params.lambda_cov,
            n_nodes=self.params.nodes,
            n_kept=self.params.eigenvectors,
            batch_images=self.params.batch_images,
            epochs=self.params.epochs,
            patience=self.params.patience,
            tolerance=self.params.tolerance,
            learning_rate=self.params.learning_rate,
            weight_decay=self.params.weight_decay,
            seed=self.params.seed + number,
        )

    def _write_maps(self, maps: AlignmentMaps) -> None:
        for model, weight in zip(self.data.models, maps.weights, strict=True):
            self.writer.write(WEIGHT.at(model.name), ..., weight.cpu().numpy())
        self.writer.write(READOUT.at(), ..., maps.readout.cpu().numpy())
        self.writer.write(BIAS.at(), ..., maps.bias.cpu().numpy())

    # ending

    def finish(self) -> Outcome:
        """Give the store its name, and show the scores on held-out images."""
        summary = self._summarize()
        fits = [json.loads((self.work.wip / f"fit-{s}.json").read_text()) for s in range(self.params.seeds)]
        outcome = self.work.finish(
            models=self.data.features.axes.names,
            summary=summary,
            controls=self.controls,
            responses=dict(self.responses.record) | {"synthetic": self.synthetic},
            fits=fits,
        )
        for line in format_scores(summary, self.controls):
            self.console.note(line)
        return outcome

    def _summarize(self) -> dict[str, Any]:
        r2, r, ridge_r2, ridge_r = (self.writer.read(score.at()) for score in (SEED_R2, SEED_R, RIDGE_R2, RIDGE_R))
        return {
            "images": self.data.n_images,
            "test_images": len(self.data.split.test),
            "voxels": self.data.n_voxels,
            "control": self.params.control,
            "synthetic": self.synthetic,
            "median_r": float(np.median(r[0])),
            "median_ridge_r": float(np.median(ridge_r)),
            "scores": summarize_scores(
                r2, r, ridge_r2, ridge_r, rois=self.responses.rois, ceiling=self.responses.noise_ceiling
            ),
        }
