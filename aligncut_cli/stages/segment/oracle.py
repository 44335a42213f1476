"""The oracle's passes (Appendix C.4): class centres from the masks, then every pixel's nearest centre, then labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.grid import weigh_tokens_by_class
from aligncut_cli.maths.segmentation import ClassCentres, OracleResult, OracleScore, label_tokens
from aligncut_cli.params import ORACLE_N_EIG
from aligncut_cli.stages.segment.passes import KINDS, ByModel, Floats, Place, Rounding, Rows, Setting, score_rounding
from aligncut_cli.store.kinds.segments import (
    COUNTED,
    HISTOGRAM,
    IMAGE_MIOU,
    MEANINGS,
    OWN_MIOU,
    ROUNDING,
    SUMS,
    WEIGHTS,
)
from aligncut_cli.store.nodes import ModelAxes
from aligncut_cli.store.phases import Phase

THRESHOLDS = np.linspace(0, 1, 10)
NO_THRESHOLD = np.array([-1.0])
"""Where no class is the background: every cosine reaches it."""


class Oracle:
    """Two passes over the images of every store, with their own masks and with those of other images."""

    usual_n_eig: int | None = ORACLE_N_EIG
    scores: tuple[str, ...] = (*MEANINGS, "iou", "each_image")
    coarser: tuple[int, ...] = ()

    def __init__(self, setting: Setting) -> None:
        if setting.truth is None:
            raise UsageError("the oracle reads class centres from masks", do="Give --masks DIR.")
        self.setting, self.truth = setting, setting.truth
        self.layout, self.sums, self.n_classes = setting.layout, setting.sums, setting.n_classes
        self.models = setting.layout.axes.models
        self.thresholds = THRESHOLDS if self.truth.has_background else NO_THRESHOLD
        self._centres = cache(self._average)
        self._results = cache(self._finish)

    def bytes_of_sums(self) -> int:
        """Return the memory of the histograms, for both kinds of masks, with one being counted."""
        slots = sum(len(model.layers) for model in self.models)
        return (len(KINDS) + 1) * slots * self.n_classes**2 * (len(self.thresholds) + 1) * 8

    def create(self, root: Any, scratch: Any) -> None:
        """Create the sums of both passes."""
        sizes = {"best": self.n_classes, "reached": len(self.thresholds) + 1, "threshold": len(self.thresholds)}
        sizes["image"] = self.layout.per_block
        self.sums.create(scratch, (SUMS, WEIGHTS, ROUNDING, HISTOGRAM, IMAGE_MIOU, OWN_MIOU, COUNTED), **sizes)

    def passes(self) -> Sequence[Phase[Any]]:
        """Return the phases before labelling."""
        return [
            self.layout.phase("centres", self._add_centres),
            self.layout.phase("compare", self._add_scores),
        ]

    def _add_centres(self, index: int, place: Place, rows: Rows) -> None:
        """Sum the rows of one block by class, weighted by how much of each patch the class covers."""
        centres = {model.name: [self._no_centres(model) for _ in KINDS] for model in self.models}
        rounding = Rounding(self.setting)
        for image, masks in enumerate(self.truth.pairs(place.images)):
            for model in self.models:
                for own, mask in zip(centres[model.name], masks, strict=True):
                    weights = weigh_tokens_by_class(mask, model.grid, n_classes=self.n_classes)
                    own.add(rows[model.name][:, image], weights)
            rounding.add(masks[0])
        for name, both in centres.items():
            self.sums.write(SUMS, name, index, np.stack([part.sums for part in both]))
            self.sums.write(WEIGHTS, name, index, np.stack([part.weights for part in both]))
        rounding.write(index)

    def _add_scores(self, index: int, place: Place, rows: Rows) -> None:
        """Score one block; models and kinds of masks are counted apart, so that threads change no sum."""
        scores = {
            model.name: [self._no_score(place.run, model, kind) for kind in range(len(KINDS))] for model in self.models
        }
        with ThreadPoolExecutor(self.setting.n_threads) as pool:
            for image, masks in enumerate(self.truth.pairs(place.images)):
                jobs = [
                    pool.submit(score.add, rows[name][:, image], mask)
                    for name, both in scores.items()
                    for score, mask in zip(both, masks, strict=True)
                ]
                for job in jobs:
                    job.result()
        for name, both in scores.items():
            self.sums.write(HISTOGRAM, name, index, np.stack([score.histogram for score in both]))
            self.sums.write(IMAGE_MIOU, name, index, np.stack([score.image_miou_sum for score in both]))
            own = np.full((self.layout.per_block, *both[0].image_miou_sum.shape), np.nan)
            own[: place.n_images] = both[0].image_miou
            self.sums.write(OWN_MIOU, name, index, own)
            self.sums.write(COUNTED, name, index, np.array([score.n_images for score in both]))

    def _no_centres(self, model: ModelAxes) -> ClassCentres:
        return ClassCentres(len(model.layers), self.n_classes, self.layout.n_eig)

    def _no_score(self, run: int, model: ModelAxes, kind: int) -> OracleScore:
        return OracleScore(
            self._centres(run)[model.name][kind],
            thresholds=self.thresholds,
            grid=model.grid,
            resolution=self.setting.params.resolution,
        )

    def _average(self, run: int) -> ByModel:
        """Return for each model (kind, layer, class, eig) centres over all images."""
        out = {}
        for model in self.models:
            sums, weights = (self.sums.total(array, model.name, run) for array in (SUMS, WEIGHTS))
            if not weights[0].any():
                raise BadInput("the masks have no labelled pixel: every one is ignored", do="Check --masks.")
            parts = []
            for kind in range(len(KINDS)):
                centres = self._no_centres(model)
                centres.sums, centres.weights = sums[kind], weights[kind]
                parts.append(centres.finish())
            out[model.name] = np.stack(parts)
        return out

    def _finish(self, run: int) -> Mapping[str, list[OracleResult]]:
        """Return for each model the scores with its own masks and with those of other images."""
        out = {}
        for model in self.models:
            histogram, image_miou, counted = (
                self.sums.total(array, model.name, run) for array in (HISTOGRAM, IMAGE_MIOU, COUNTED)
            )
            results = []
            for kind in range(len(KINDS)):
                score = self._no_score(run, model, kind)
                score.histogram, score.image_miou_sum = histogram[kind], image_miou[kind]
                score.n_images = int(counted[kind])
                results.append(score.finish())
            out[model.name] = results
        return out

    def label(self, rows: Rows) -> Mapping[str, list[NDArray[np.int16]]]:
        """Return for each model the oracle's label (layer, image, patch) at each slot's best threshold."""
        out = {}
        for name, values in rows.items():
            centres, thresholds = self._centres(0)[name][0], self._results(0)[name][0].best_threshold
            labels = np.empty(values.shape[:3], np.int16)
            for image in range(values.shape[1]):
                labels[:, image] = label_tokens(values[:, image], centres, thresholds=thresholds)
            out[name] = [labels]
        return out

    def score(self, run: int) -> Mapping[str, ByModel]:
        """Return by name the scores of one store, (layer,) of each model, `iou` (layer, class)."""
        results = self._results(run)

        def pick(what: Callable[[OracleResult], Floats], kind: int = 0) -> ByModel:
            return {name: what(both[kind]) for name, both in results.items()}

        return {
            "miou": pick(lambda result: result.best_miou),
            "threshold": pick(lambda result: result.best_threshold),
            "image_miou": pick(lambda result: result.best_image_miou),
            "chance": pick(lambda result: result.best_chance),
            "shuffled": pick(lambda result: result.best_miou, kind=1),
            "bound": score_rounding(self.setting, run),
            "iou": pick(lambda result: result.best_iou),
            "each_image": self._score_images(run),
        }

    def _score_images(self, run: int) -> ByModel:
        """Return for each model (layer, image), each image's own mIoU at its slot's best threshold."""
        out = {}
        for name, (own, _) in self._results(run).items():
            every = self.sums.join(OWN_MIOU, name, run)[: self.layout.n_images]
            out[name] = np.stack([every[:, layer, best] for layer, best in enumerate(own.best)])
        return out
