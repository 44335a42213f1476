"""The computation of `decode`: fit every fold of every run, rank its held-out images, and score all together."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.brain.categories import read_categories
from aligncut_cli.console import format_table
from aligncut_cli.errors import BadInput
from aligncut_cli.images.band import parse_band
from aligncut_cli.machine import cpu_count
from aligncut_cli.maths.control_targets import shuffle_pairs
from aligncut_cli.maths.repeats import split_half_ceiling
from aligncut_cli.maths.split_images import split_into_folds
from aligncut_cli.maths.towers import GRID, WIDTH
from aligncut_cli.params import DecodeParams
from aligncut_cli.stages.decode.blocks import StoredFeatures
from aligncut_cli.stages.decode.folds import FoldFit
from aligncut_cli.stages.decode.images import DecodedImages
from aligncut_cli.stages.decode.leaks import choose_fits
from aligncut_cli.stages.decode.pictures import Pictures
from aligncut_cli.stages.decode.repeats import rank_repeats
from aligncut_cli.stages.decode.ridge import ReadResponses, fit_by_ridge
from aligncut_cli.stages.decode.runs import Run, list_runs
from aligncut_cli.stages.decode.scores import ALL, Question, RunScores, parse_candidates, parse_neurons
from aligncut_cli.stages.decode.sources import Source
from aligncut_cli.stages.decode.summary import summarize
from aligncut_cli.stages.decode.tables import tabulate
from aligncut_cli.stages.decode.towers import fit_by_towers
from aligncut_cli.stages.device import settle_device
from aligncut_cli.stages.response_paths import ResponsePaths
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.kinds.base import PER_BLOCK, put_images
from aligncut_cli.store.kinds.decoding import (
    BEST,
    CATEGORIES,
    CATEGORY,
    CATEGORY_CHANCE,
    CATEGORY_P,
    CHANCE,
    EVIDENCE,
    FOLD,
    LOOK,
    MAPS,
    NULL,
    RANDOM,
    RANK,
    REPEAT_CEILING,
    REPEAT_RANK,
    REPEATS,
    SCORES,
    SIZE,
    SUBSET_P,
    SUBSETS,
    TESTED,
    TOP,
    WRONG,
    P,
    create_decoding,
)
from aligncut_cli.store.kinds.features import Features
from aligncut_cli.store.nodes import image_slices
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work, write_json
from aligncut_cli.store.write import Writer, create_group

PROCESS_BYTES = 700_000_000
PICTURES_PER_BLOCK, MAPS_PER_CHUNK = 256, 1024


@dataclass(frozen=True)
class Job:
    """One fold of one run."""

    run: int
    fold: int


class DecodeStage:
    """One run of the stage."""

    def __init__(
        self,
        work: Work,
        sources: Sequence[Source],
        paths: ResponsePaths,
        params: DecodeParams,
        *,
        alignment: Store | None,
        categories: Path | None,
    ) -> None:
        self.work, self.params, self.sources = work, params, sources
        self.synthetic = paths.are_synthetic()
        self.device = settle_device(work)
        self.controls = collect_controls(alignment, *(source.store for source in sources))
        self.images = DecodedImages(sources, paths, params, work)
        work.console.note(self.images.joined.describe())
        self.runs = list_runs(sources, params)
        splits = split_into_folds(
            self.images.n_images, n_folds=params.folds, validation_share=params.validation_share, seed=params.seed
        )
        self.categories: list[str] = []
        belongs: NDArray[np.int64] | None = None
        if categories is not None:
            self.categories, belongs = read_categories(categories, self.images.ids)
        self.question = Question(
            splits,
            parse_candidates(params.candidates, splits),
            parse_neurons(params.neurons, self.images.n_neurons),
            belongs,
            params,
        )
        self.alignment = None if alignment is None else Alignment(alignment)
        self.fits = choose_fits(self.alignment, sources, paths, params)
        self.jobs = [Job(run, fold) for run in range(len(self.runs)) for fold in range(params.folds)]
        self.writer = Writer(work.staging)
        self.threads = work.options.workers or cpu_count()
        self.photos = work.settle("photos", lambda: None if params.photos is None else os.path.abspath(params.photos))
        self.pictures = {number: self._open_pictures(number) for number in self._sources_of("towers")}
        self.features = {number: self._open_features(number, 0) for number in self._sources_of("ridge")}

    def _sources_of(self, method: str) -> list[int]:
        return sorted({run.source for run in self.runs if run.method == method})

    def _open_pictures(self, source: int) -> Pictures:
        store = self.sources[source].store
        text = self.params.band if store is None else store.record["params"].get("band")
        return Pictures(
            self.work.scratch / f"pictures-{source}.npy",
            self.images.table,
            side=self.params.image_size,
            band=None if text is None else parse_band(text),
            photos=self.photos,
        )

    def _open_features(self, source: int, fold: int) -> StoredFeatures:
        store = self.sources[source].store
        if store is None:
            raise BadInput(f"{self.sources[source].path} holds no features")
        rows = self.images.joined.feature_rows
        return StoredFeatures(Features(store), rows, alignment=self.alignment, fit=self.fits[fold])

    def plan(self) -> Plan:
        """Return the bytes of one fold's products, and of ranking it."""
        n, neurons = self.images.n_images, self.images.n_neurons
        test = max(len(split.test) for split in self.question.splits)
        widths = [sum(features.widths) for features in self.features.values()]
        widest = max(widths, default=0)
        inner = min(widest, n - test)
        exact = n * widest * 4 * 4 if widest > n - test else 0  # features, scaled, in float64, and their kernel
        size = self.params.channels * GRID**2 if self.pictures else 0
        seen = max(self.params.batch_images, min(512, n)) * self.params.image_size**2 * WIDTH * 4
        towers = 8 * seen + 16 * neurons * size + 8 * n * size if self.pictures else 0
        scores = self.params.permutations * (len(self.question.candidates) * len(TESTED) + n) * 8
        return Plan(
            memory=PROCESS_BYTES
            + 8 * (6 * inner * inner + 24 * inner * neurons)
            + exact
            + 12 * test * neurons * self.params.folds
            + 64 * test * 40
            + towers
            + scores,
            disk=len(self.jobs) * test * (neurons * 8 + size * 8)
            + scores * len(self.runs)
            + 4 * n * neurons
            + len(self.pictures) * n * (3 * self.params.image_size**2 + 2 * size),
            notes={"images": n, "neurons": neurons, "runs": len(self.runs), "candidates": test},
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        return [
            single_step("create", self._create),
            single_step("responses", lambda: self.images.hold(self._responses)),
            *([self._picture_phase()] if self.pictures else []),
            Phase("fit", self.jobs, self._fit, unit="folds", detail=lambda job: self.runs[job.run].name, parallel=True),
            *([single_step("repeats", self._repeat)] if self.images.repeats is not None else []),
            Phase("retrieve", self.runs, self._retrieve, unit="runs", detail=lambda run: run.name, parallel=True),
        ]

    def _picture_phase(self) -> Phase[tuple[int, slice]]:
        slices = list(image_slices(self.images.n_images, PICTURES_PER_BLOCK))
        return Phase(
            "pictures",
            [(number, images) for number in self.pictures for images in slices],
            lambda index, block, data: self.pictures[block[0]].write(block[1], threads=self.threads),
            unit="images",
            size=lambda block: block[1].stop - block[1].start,
            parallel=True,
        )

    # phases

    def _create(self) -> None:
        root = create_group(self.work.staging)
        question, params = self.question, self.params
        put_images(root, self.images.table, {})
        more = [
            *(SUBSETS if question.sizes else ()),
            *(CATEGORIES if self.categories else ()),
            *(REPEATS if self.images.repeats is not None else ()),
        ]
        sizes = {
            "run": len(self.runs),
            "image": question.n_images,
            "candidates": len(question.candidates),
            "bound": 3,
            "exchange": params.permutations,
            "neuron": self.images.n_neurons,
            "size": len(question.sizes),
            "subset": params.subsets,
        }
        shown = [ALL if number is None else number for number in question.candidates]
        create_decoding(
            root, sizes, more=more, attributes={"runs": [run.name for run in self.runs], "candidates": shown}
        )
        for name in self._towers:
            tower = {"channel": params.channels, "row": GRID, "column": GRID, PER_BLOCK: MAPS_PER_CHUNK}
            for array in (MAPS, LOOK):
                array.create(root, {**sizes, **tower}, name)
        for pictures in self.pictures.values():
            pictures.create()
        fold = np.empty(question.n_images, np.int16)
        for number, split in enumerate(question.splits):
            fold[split.test] = number
        root[FOLD.at()][...] = fold  # type: ignore[index]
        for name, array in CHANCE.items():
            root[array.at()][...] = [question.chance(name, number) for number in question.candidates]  # type: ignore[index]
        if question.sizes:
            root[SIZE.at()][...] = question.sizes  # type: ignore[index]

    @property
    def _responses(self) -> Path:
        return self.work.scratch / "responses.npy"

    def _read_responses(self, run: Run) -> ReadResponses:
        """Return what reads responses of some images, or of the images that stand in for them in the control."""
        held = np.lib.format.open_memmap(self._responses, mode="r")
        rows = shuffle_pairs(len(held), seed=self.params.seed) if run.shuffled else np.arange(len(held))
        return lambda images: np.asarray(held[rows[images]])

    @property
    def _towers(self) -> list[str]:
        """Return the names of the runs whose maps are kept."""
        return [run.name for run in self.runs if run.method == "towers" and not run.shuffled]

    def _fit(self, index: int, job: Job, data: None) -> None:
        """Fit one fold, and keep what ranking its images needs."""
        run, split = self.runs[job.run], self.question.splits[job.fold]
        read = self._read_responses(run)
        if run.method == "ridge":
            features = self.features[run.source]
            if self.fits[job.fold] != self.fits[0]:
                features = self._open_features(run.source, job.fold)
            fit = fit_by_ridge(features, read, split, device=self.device)
        else:
            fit = fit_by_towers(
                self.pictures[run.source].open(),
                read,
                self.question.categories,
                split,
                self.params,
                fold=job.fold,
                device=self.device,
            )
        fit.save(self._file(job))
        write_json(self._file(job).with_suffix(".json"), dict(fit.record))

    def _file(self, job: Job) -> Path:
        return self.work.scratch / f"fit-{job.run}-{job.fold}.npz"

    def _record(self, job: Job) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self._file(job).with_suffix(".json")).read_text())
        return record

    def _retrieve(self, index: int, run: Run, data: None) -> None:
        """Rank the held-out images of all folds of a run, and write everything that follows."""
        jobs = [job for job in self.jobs if job.run == index]
        scores = RunScores(self.question, [FoldFit.load(self._file(job), self._record(job)) for job in jobs])
        here = slice(index, index + 1)
        if run.name in self._towers:
            self._write_maps(run.name, scores)
        self.writer.write(RANK.at(), here, scores.ranks[None])
        self.writer.write(BEST.at(), here, scores.named("best")[None])
        self.writer.write(WRONG.at(), here, scores.named("wrong")[None])
        null, p = scores.null(), scores.p_values()
        for name, values in scores.score().items():
            self.writer.write(SCORES[name].at(), here, values[None])
        for at, name in enumerate(TESTED):
            self.writer.write(NULL[name].at(), here, null[None, :, at])
            self.writer.write(P[name].at(), here, p[None, :, at])
        self.writer.write(EVIDENCE.at(), here, scores.evidence()[None])
        if self.question.sizes:
            for array, subset in zip((TOP, RANDOM, SUBSET_P), scores.subsets(), strict=True):
                self.writer.write(array.at(), here, subset[None])
        if self.question.categories is not None:
            shares, chance, of_right = scores.categories(self.question.categories)
            for name, share in shares.items():
                self.writer.write(CATEGORY[name].at(), here, share[None])
                self.writer.write(CATEGORY_CHANCE[name].at(), here, np.array([chance[name]]))
            self.writer.write(CATEGORY_P.at(), here, np.array([of_right]))

    def _repeat(self) -> None:
        """Look for each image by one half of its repeats among the other halves, and measure what repeats."""
        if self.images.repeats is None:
            return
        first, second = self.images.repeats.read()
        self.writer.write(REPEAT_CEILING.at(), ..., split_half_ceiling(first, second))
        self.writer.write(REPEAT_RANK.at(), ..., rank_repeats(first, second, self.images.repeats.images, self.question))

    def _write_maps(self, name: str, scores: RunScores) -> None:
        maps = scores.gather([fit.maps.astype(np.float16) for fit in scores.fits])
        for images in image_slices(len(maps), MAPS_PER_CHUNK):
            self.writer.write(MAPS.at(name), images, maps[images])
        squares = [np.square(fit.look, dtype=np.float64) for fit in scores.fits]
        self.writer.write(LOOK.at(name), ..., np.sqrt(np.mean(squares, axis=0)))

    # ending

    def finish(self) -> Outcome:
        """Give the store its name, and show the scores of all runs."""
        records = [[self._record(job) for job in self.jobs if job.run == index] for index in range(len(self.runs))]
        summary = summarize(
            self.writer.read, self.runs, self.question, records, repeats=self.images.repeats is not None
        )
        summary["synthetic"] = self.synthetic
        largest = max(len(split.test) for split in self.question.splits)
        return self.work.finish(
            summary=summary,
            controls=self.controls,
            runs=[run.name for run in self.runs],
            candidates=[candidates or largest for candidates in self.question.candidates],
            said=[format_table(header, rows, title=title) for title, header, rows in tabulate(summary, self.controls)],
            categories=self.categories,
            towers=self._towers,
            responses=dict(self.images.responses.record)
            | {"synthetic": self.synthetic, "pairing": dict(self.images.joined.record)},
        )
