"""The oracle's passes (Appendix C.4): class centres from the masks, then every pixel's nearest centre, then labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.grid import weigh_tokens_by_class
from aligncut_cli.maths.iou import score_confusion
from aligncut_cli.maths.segmentation import (
    ClassCentres,
    OracleResult,
    OracleScore,
    count_grid_rounding,
    label_tokens,
)
from aligncut_cli.stages.segment.phases import KINDS, Floats, Rows, SegmentPhases

THRESHOLDS = np.linspace(0, 1, 10)


class OraclePhases(SegmentPhases):
    """Two passes over the images of every store, with their own masks and with those of other images."""

    score_names = ("miou", "threshold", "image_miou", "chance", "shuffled", "bound", "iou")

    def passes(self) -> dict[str, tuple[int, Callable[[], None]]]:
        """Return the phases before labelling."""
        count = len(self.runs) * len(self.blocks)
        return {
            "centres": (count, lambda: self.stream("centres", self._add_centres)),
            "compare": (count, lambda: self.stream("compare", self._add_scores)),
        }

    def bytes_of_sums(self) -> int:
        """Return the memory of the histograms, for both kinds of masks, with one being counted."""
        slots = sum(len(model.layers) for model in self.axes.models)
        return (len(KINDS) + 1) * slots * self.n_classes**2 * (len(THRESHOLDS) + 1) * 8

    def create(self, root: Any, scratch: Any) -> None:
        """Create the sums of both passes."""
        n, k, t = self.n_classes, len(KINDS), len(THRESHOLDS)
        for model in self.axes.models:
            layers, name = len(model.layers), model.name
            self.create_sums(scratch, f"sums/{name}", (k, layers, n, self.n_eig), ["kind", "layer", "class", "eig"])
            self.create_sums(scratch, f"weights/{name}", (k, n), ["kind", "class"])
            self.create_sums(scratch, f"rounding/{name}", (n, n), ["class", "rounded"], dtype="int64")
            dims = ["kind", "layer", "class", "best", "reached"]
            self.create_sums(scratch, f"histogram/{name}", (k, layers, n, n, t + 1), dims, dtype="int64")
            self.create_sums(scratch, f"image_miou/{name}", (k, layers, t), ["kind", "layer", "threshold"])
            self.create_sums(scratch, f"counted/{name}", (k,), ["kind"], dtype="int64")

    def _add_centres(self, run: int, block: int, rows: Rows) -> None:
        centres = {
            model.name: [ClassCentres(len(model.layers), self.n_classes, self.n_eig) for _ in KINDS]
            for model in self.axes.models
        }
        rounding = {name: np.zeros((self.n_classes, self.n_classes), np.int64) for name in centres}
        for image, masks in enumerate(self.masks_of(block)):
            for model in self.axes.models:
                values = rows[model.name][:, image]
                for kind, mask in enumerate(masks):
                    weights = weigh_tokens_by_class(mask, model.grid, n_classes=self.n_classes)
                    centres[model.name][kind].add(values, weights)
                rounding[model.name] += count_grid_rounding(
                    masks[0], model.grid, n_classes=self.n_classes, resolution=self.params.resolution
                )
        index = run * len(self.blocks) + block
        for name, both in centres.items():
            self.scratch.write(f"sums/{name}", index, np.stack([part.sums for part in both]))
            self.scratch.write(f"weights/{name}", index, np.stack([part.weights for part in both]))
            self.scratch.write(f"rounding/{name}", index, rounding[name])

    def _add_scores(self, run: int, block: int, rows: Rows) -> None:
        """Score one block; models and kinds of masks are counted apart, so that threads change no sum."""
        scores = {
            (model.name, kind): OracleScore(
                self._centres(run)[model.name][kind],
                thresholds=THRESHOLDS,
                grid=model.grid,
                resolution=self.params.resolution,
            )
            for model in self.axes.models
            for kind in range(len(KINDS))
        }
        with ThreadPoolExecutor(self.n_threads) as pool:
            for image, masks in enumerate(self.masks_of(block)):
                jobs = [
                    pool.submit(score.add, rows[name][:, image], masks[kind]) for (name, kind), score in scores.items()
                ]
                for job in jobs:
                    job.result()
        index = run * len(self.blocks) + block
        for name in rows:
            both = [scores[name, kind] for kind in range(len(KINDS))]
            self.scratch.write(f"histogram/{name}", index, np.stack([score.histogram for score in both]))
            self.scratch.write(f"image_miou/{name}", index, np.stack([score.image_miou_sum for score in both]))
            self.scratch.write(f"counted/{name}", index, np.array([score.n_images for score in both]))

    @cache  # noqa: B019 - lives as long as the one run of the stage
    def _centres(self, run: int) -> Mapping[str, Floats]:
        """Return for each model (kind, layer, class, eig) centres over all images."""
        out = {}
        for model in self.axes.models:
            sums, weights = self.total(run, f"sums/{model.name}"), self.total(run, f"weights/{model.name}")
            if not weights[0].any():
                raise BadInput("the masks have no labelled pixel: every one is ignored", do="Check --masks.")
            parts = []
            for kind in range(len(KINDS)):
                centres = ClassCentres(len(model.layers), self.n_classes, self.n_eig)
                centres.sums, centres.weights = sums[kind], weights[kind]
                parts.append(centres.finish())
            out[model.name] = np.stack(parts)
        return out

    @cache  # noqa: B019
    def _results(self, run: int) -> Mapping[str, list[OracleResult]]:
        """Return for each model the scores with its own masks and with those of other images."""
        out = {}
        for model in self.axes.models:
            histogram, image_miou, counted = (
                self.total(run, f"{name}/{model.name}") for name in ("histogram", "image_miou", "counted")
            )
            results = []
            for kind in range(len(KINDS)):
                score = OracleScore(
                    self._centres(run)[model.name][kind],
                    thresholds=THRESHOLDS,
                    grid=model.grid,
                    resolution=self.params.resolution,
                )
                score.histogram, score.image_miou_sum = histogram[kind], image_miou[kind]
                score.n_images = int(counted[kind])
                results.append(score.finish())
            out[model.name] = results
        return out

    def label_block(self, block: int, rows: Rows) -> None:
        """Write the oracle's label of every patch at its slot's best threshold."""
        for model in self.axes.models:
            values = rows[model.name]
            labels = np.empty(values.shape[:3], np.int16)
            for image in range(values.shape[1]):
                labels[:, image] = label_tokens(
                    values[:, image],
                    self._centres(0)[model.name][0],
                    thresholds=self._results(0)[model.name][0].best_threshold,
                )
            self.write_labels("labels", model.name, block, labels)

    def score_run(self, run: int) -> dict[str, Floats]:
        """Return the scores of one store."""
        results = self._results(run)

        def gather(pick: Callable[[OracleResult], NDArray[Any]], kind: int = 0) -> Floats:
            return self.by_slot({name: pick(both[kind]) for name, both in results.items()})

        bounds = {
            model.name: np.full(len(model.layers), float(score_confusion(self.total(run, f"rounding/{model.name}"))[0]))
            for model in self.axes.models
        }
        return {
            "miou": gather(lambda result: result.best_miou),
            "threshold": gather(lambda result: result.best_threshold),
            "image_miou": gather(lambda result: result.best_image_miou),
            "chance": gather(lambda result: result.best_chance),
            "shuffled": gather(lambda result: result.best_miou, kind=1),
            "bound": self.by_slot(bounds),
            "iou": gather(lambda result: result.best_iou),
        }
