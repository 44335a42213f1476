"""The computation of `align`: fit every seed, fold and control, score each on held-out images, and write the maps."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from aligncut_cli.brain.join import suspect_pairing
from aligncut_cli.brain.responses import load_responses
from aligncut_cli.maths.alignment_fit import AlignmentFit
from aligncut_cli.maths.alignment_start import AlignmentStart
from aligncut_cli.maths.encoding import AlignmentMaps, average_slots
from aligncut_cli.maths.response_units import restore_units
from aligncut_cli.maths.ridge import PRECISE_IMAGES
from aligncut_cli.maths.slot_scores import predict_by_each_slot
from aligncut_cli.params import AlignParams
from aligncut_cli.stages.align.consensus import estimate_memory, format_consensus
from aligncut_cli.stages.align.consensus_phases import find_fold_consensus, write_consensus
from aligncut_cli.stages.align.data import NODE_IMAGES, NODE_TOKENS, AlignmentData, Job, list_jobs
from aligncut_cli.stages.align.fit import Checkpoint, FitData, choose_fallback, fit_alignment, fit_settings
from aligncut_cli.stages.align.scores import (
    Predictions,
    choose_shown_voxels,
    format_scores,
    measure_agreement,
    score_slot,
    summarize_scores,
)
from aligncut_cli.stages.device import settle_device
from aligncut_cli.stages.response_paths import ResponsePaths
from aligncut_cli.store.kinds.alignment import (
    BIAS,
    DEVIATION,
    EVERY_VOXEL,
    FIT_BIAS,
    FIT_READOUT,
    FIT_WEIGHT,
    READOUT,
    SCORES,
    SEED_R,
    SEED_R2,
    SLOT_SCORES,
    WEIGHT,
    create_alignment,
)
from aligncut_cli.store.kinds.features import Features
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store
from aligncut_cli.store.run import Outcome, Plan, Work, write_json
from aligncut_cli.store.write import Writer, create_group

PROCESS_BYTES = 700_000_000
# Fewer test images than these are said to be few.
FEW_IMAGES = 10
# In the table of single slots: voxels of each region, and draws of the bootstrap.
SHOWN_VOXELS, SLOT_DRAWS = 512, 200


class AlignStage:
    """One run of the stage: jobs, each a fit with checkpoints after its epochs; the first is the main one."""

    def __init__(
        self,
        work: Work,
        source: Store,
        paths: ResponsePaths,
        params: AlignParams,
    ) -> None:
        self.work, self.params, self.console = work, params, work.console
        self.synthetic = paths.are_synthetic()
        self.controls = [] if params.control == "none" else [params.control]
        self.device = settle_device(work)
        responses = {
            name: load_responses(
                subject.responses,
                image_ids=subject.image_ids,
                rois=subject.rois,
                noise_ceiling=subject.noise_ceiling,
                drop_nan_voxels=params.drop_nan_voxels,
                drop_nan_images=params.drop_nan_images,
                average_repeats=params.average_repeats,
            )
            for name, subject in paths.subjects.items()
        }
        self.data = AlignmentData(Features(source), responses, params)
        self.responses = self.data.responses
        for line in self.responses.describe():
            self.console.note(line)
        if len(responses) > 1:
            n_images = len(self.data.features.ids)
            seen = f"{self.data.n_images:,} of {n_images:,} images were seen by all {len(responses)} subjects"
            self.console.note(seen)
        self.jobs = list_jobs(params)
        self.n_runs = len({job.run for job in self.jobs})
        self.writer = Writer(work.staging)
        self._last: tuple[tuple[int, int], FitData] | None = None
        self._warned: list[str] = []

    def plan(self) -> Plan:
        """Return the bytes of all inputs and of the larger of ridge and fit."""
        data, split = self.data, self.data.splits[0]
        maps = self.params.channels * (data.n_channels + data.n_voxels)
        pooled = data.n_channels * data.n_images * 4
        nodes = data.n_channels * 2 * NODE_TOKENS * NODE_IMAGES
        kernel = 8 if len(split.train) <= PRECISE_IMAGES else 4
        widths = [data.channels[model.name] for model in data.models for _ in model.layers]
        slots = 8 * sum(width * (width + self.params.channels // 2 + len(split.validation)) for width in widths)
        predicted = 4 * 4 * len(split.test) * data.n_voxels
        shared = 0 if self.params.target == "brain" else estimate_memory(data.features, self.params)
        return Plan(
            memory=PROCESS_BYTES
            + pooled
            + nodes
            + 2 * data.n_images * data.n_voxels * 4
            + max(
                6 * maps * 4,
                4 * kernel * data.n_images * len(split.train),
                2 * kernel * data.n_images * len(split.train) + slots,
                predicted * self.params.folds,
                shared,
            ),
            disk=(6 + len(self.jobs)) * maps * 4 + predicted * len(self.jobs),
            notes={
                "images": data.n_images,
                "split": f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test",
                "voxels": data.n_voxels,
            },
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        folds = range(0 if self.params.target == "brain" else self.params.folds)
        return [
            single_step("create", self._create),
            *([Phase("consensus", folds, self._find_consensus, parallel=True)] if folds else []),
            Phase("fit", self.jobs, self._fit, feed=self._prepare, parallel=True),
            single_step("layers", self._score_slots),
        ]

    # phases

    def _create(self) -> None:
        create_alignment(
            create_group(self.work.staging),
            self.data.features.axes,
            self.data.channels,
            universal=self.params.channels,
            voxels=self.data.n_voxels,
            runs=self.n_runs,
            fits=len(self.jobs),
            rois=self.responses.rois,
            ceiling=self.responses.noise_ceiling,
            consensus=self.params.target != "brain",
        )

    def _data_of(self, job: Job) -> FitData:
        """Return the arrays of a job's fold and control; the last ones made are kept, as jobs in a row share them."""
        key = (job.fold, job.control_seed)
        if self._last is None or self._last[0] != key:
            self._last = None  # free its memory before the next is made
            data, split = self.data, self.data.splits[job.fold]
            made = FitData(
                data.pooled,
                data.read_targets(job.control_seed),
                data.sample_nodes(split),
                split,
                device=self.device,
                console=self.console,
                warn=self._warned.append,
            )
            self._last = (key, made)
        return self._last[1]

    @contextlib.contextmanager
    def _prepare(self, pending: Sequence[int]) -> Iterator[Iterator[FitData]]:
        for control in self.controls:
            self.console.warn(f"control: {control} targets stand in for the responses. This is recorded.")
        yield (self._data_of(self.jobs[index]) for index in pending)

    def _fit(self, index: int, job: Job, data: FitData) -> None:
        """Make one fit from its checkpoint or its start, keep its maps, and what it predicts of the test images."""
        self._warned.clear()
        fit = fit_alignment(
            data,
            fit_settings(self.params, job.seed),
            start=lambda: self._start(job, data),
            centre=self.params.centre,
            fallback=choose_fallback(self.params, data),
            checkpoint=Checkpoint(self.work.scratch / f"fit-{job.number}.safetensors", self.console),
        )
        self._write_maps(job, restore_units(fit.best, data.mean, data.deviation))
        if job.number == 0:
            self.writer.write(DEVIATION.at(), ..., measure_deviation(fit, data))
        test = data.split.test
        measured = data.measured
        ridge = data.predict_by_ridge(test) if job.run == 0 else measured[:0]
        self.work.scratch.mkdir(exist_ok=True)
        np.savez(
            self.work.scratch / f"predicted-{job.number}.npz",
            measured=measured,
            fitted=data.predict(fit.best, test),
            ridge=ridge,
            null=np.broadcast_to(data.mean, measured.shape) if job.run == 0 else measured[:0],
        )
        record = {
            "best": vars(fit.best_record),
            "lowest": vars(fit.lowest_record),
            "history": [vars(epoch) for epoch in fit.history],
            "between_models": measure_agreement(data.nodes.validation, fit.best.weights, self.data.features.axes.names),
        }
        write_json(self.work.wip / f"fit-{job.number}.json", record)
        write_json(self._warnings_of(job, "maps"), self._warned)

    def _start(self, job: Job, data: FitData) -> AlignmentStart:
        if self.params.target == "brain":
            start = data.start(self.params.start, universal_dim=self.params.channels, seed=job.seed)
            write_json(self._warnings_of(job, "start"), self._warned)  # a fit that goes on does not start again
            self._warned.clear()
            return start
        saved = load_file(self.work.scratch / f"consensus-{job.fold}.safetensors")
        weights = [saved[model.name] for model in self.data.models]
        return data.start_inside(weights, turn=self.params.target == "both")

    def _warnings_of(self, job: Job, part: str) -> Path:
        """Return where it is kept what a fit warned of: of its `start`, or of the `maps` that were kept."""
        return self.work.wip / f"warned-{part}-{job.number}.json"

    def _gather_warnings(self) -> list[str]:
        """Return what the fits warned of; where there are several, how many of them, in the words of the first."""
        gathered = []
        for part in ("start", "maps"):
            files = [self._warnings_of(job, part) for job in self.jobs]
            found = [text for file in files if file.exists() for text in json.loads(file.read_text(encoding="utf-8"))]
            if found:
                several = f"{len(found)} of {len(self.jobs)} fits warn; the first: " if len(self.jobs) > 1 else ""
                gathered.append(several + found[0])
        return gathered

    def _find_consensus(self, index: int, fold: int, data: None) -> None:
        """Find what the slots share on a fold's training images; the maps wait for the fits."""
        maps = find_fold_consensus(self.data, fold, device=self.device, console=self.console)
        if fold == 0:
            write_consensus(self.writer, self.data, maps)
        self.work.scratch.mkdir(exist_ok=True)
        tensors = {model.name: weight for model, weight in zip(self.data.models, maps.weights, strict=True)}
        save_file(tensors, self.work.scratch / f"consensus-{fold}.safetensors")
        write_json(self.work.wip / f"consensus-{fold}.json", maps.record)

    def _write_maps(self, job: Job, maps: AlignmentMaps) -> None:
        weights = dict(zip(self.data.features.axes.names, (w.cpu().numpy() for w in maps.weights), strict=True))
        readout, bias = maps.readout.cpu().numpy(), maps.bias.cpu().numpy()
        if job.number == 0:
            for model, weight in weights.items():
                self.writer.write(WEIGHT.at(model), ..., weight)
            self.writer.write(READOUT.at(), ..., readout)
            self.writer.write(BIAS.at(), ..., bias)
        if len(self.jobs) > 1:
            for model, weight in weights.items():
                self.writer.write(FIT_WEIGHT.at(model), job.number, weight)
            self.writer.write(FIT_READOUT.at(), job.number, readout)
            self.writer.write(FIT_BIAS.at(), job.number, bias)

    def _score_slots(self) -> None:
        """Write what a ridge on each slot alone predicts of each region: which layer predicts which."""
        data = self._data_of(self.jobs[0])
        rois = {name: mask for name, mask in self.responses.rois.items() if mask.any()}
        shown = choose_shown_voxels(rois, self.data.n_voxels, most=SHOWN_VOXELS)
        rois = {name: mask[shown] for name, mask in rois.items()}
        targets = np.ascontiguousarray(data.targets[:, shown])
        models = self.data.models
        values = [np.empty((2, len(model.layers), 1 + len(rois), 3), np.float32) for model in models]
        with self.console.progress("layers", len(data.statistics), unit="slots") as progress:
            slots = predict_by_each_slot(data.pooled, data.statistics, data.split, targets, device=self.device)
            for at, layer, predicted in slots:
                values[at][:, layer] = score_slot(
                    predicted, targets[data.split.test], rois, n_draws=SLOT_DRAWS, seed=self.params.seed
                )
                progress.advance()
        for model, scores in zip(models, values, strict=True):
            for array, score in zip(SLOT_SCORES, scores, strict=True):
                self.writer.write(array.at(model.name), ..., score)

    # ending

    def _load_predictions(self, run: int) -> Predictions:
        parts = []
        for job in self.jobs:
            if job.run == run:
                with np.load(self.work.scratch / f"predicted-{job.number}.npz") as saved:
                    parts.append(Predictions(**{name: saved[name] for name in saved.files}))
        return Predictions.join(parts)

    def finish(self) -> Outcome:
        """Score all runs, give the store its name, and show the scores on held-out images."""
        main = self._load_predictions(0)
        scores = main.score()
        for array in SCORES:
            self.writer.write(array.at(), ..., scores[array.name.rpartition("/")[2]])
        for run in range(self.n_runs):
            own = scores if run == 0 else score_run(self._load_predictions(run))
            self.writer.write(SEED_R2.at(), run, own["r2"])
            self.writer.write(SEED_R.at(), run, own["r"])
        doubt = None if self.controls else suspect_pairing(scores["ridge_r"], len(main.measured))
        summary = self._summarize(main)
        fits = [json.loads((self.work.wip / f"fit-{job.number}.json").read_text()) for job in self.jobs]
        warned = [] if doubt is None else [" ".join([doubt, *self.responses.describe()])]
        if summary["test_images"] < FEW_IMAGES:
            few = f"{summary['test_images']} test images are too few for scores and intervals to say much"
            warned.insert(0, few)
        warned += self._gather_warnings()
        return self.work.finish(
            models=self.data.features.axes.names,
            summary=summary,
            said=[*describe_consensus(summary, self.controls), *format_scores(summary, self.controls)],
            warned=warned,
            controls=self.controls,
            responses=self.responses.record | {"synthetic": self.synthetic, "suspected": doubt is not None},
            fits=fits,
            slot_rois=[EVERY_VOXEL, *(name for name, mask in self.responses.rois.items() if mask.any())],
        )

    def _summarize(self, main: Predictions) -> dict[str, Any]:
        r, ridge_r = self.writer.read(SEED_R.at()), main.score()["ridge_r"]
        fit = json.loads((self.work.wip / "fit-0.json").read_text())
        shared = {}
        if self.params.target != "brain":
            shared = {"consensus": json.loads((self.work.wip / "consensus-0.json").read_text())}
        return {
            "target": self.params.target,
            **shared,
            "images": self.data.n_images,
            "test_images": len(main.measured),
            "folds": self.params.folds,
            "runs": self.n_runs,
            "voxels": self.data.n_voxels,
            "control": self.params.control,
            "synthetic": self.synthetic,
            "between_models": fit["between_models"],
            "median_r": float(np.median(r[0])),
            "median_ridge_r": float(np.median(ridge_r)),
            "scores": summarize_scores(
                main,
                self.writer.read(SEED_R2.at()),
                r,
                rois=self.responses.rois,
                ceiling=self.responses.noise_ceiling,
                n_draws=self.params.draws,
                seed=self.params.seed,
            ),
            "eq10": {"at the start": fit["history"][0], "as kept": fit["best"], "lowest": fit["lowest"]},
        }


def describe_consensus(summary: Mapping[str, Any], controls: Sequence[str]) -> list[str]:
    """Return the lines about the consensus where there is one."""
    return format_consensus(summary["consensus"], controls) if "consensus" in summary else []


def score_run(run: Predictions) -> dict[str, np.ndarray[Any, Any]]:
    """Return R^2 and r of every voxel, of the fit alone."""
    return Predictions(run.measured, run.fitted, run.fitted, run.fitted).score()


def measure_deviation(fit: AlignmentFit, data: FitData) -> np.ndarray[Any, Any]:
    """Return the deviation over training images of each channel of Eq. 2's average over slots, (universal,)."""
    pooled = [torch.from_numpy(values[:, data.split.train]).to(fit.best.readout.device) for values in data.pooled]
    deviation: np.ndarray[Any, Any] = average_slots(pooled, fit.best.weights).std(dim=0).cpu().numpy()
    return deviation
