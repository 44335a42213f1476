"""The computation of `compare`: every slot's tokens side by side, block of images by block of images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.maths.slot_similarity import SlotSimilarity, mean_between_models
from aligncut_cli.params import CompareParams, RunOptions
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.nodes import Block, image_slices
from aligncut_cli.store.read import Store, collect_controls, read_ahead
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.matrices import draw_similarity

PROCESS_BYTES = 700_000_000
BLOCK_BYTES = 400_000_000


class ComparePhases:
    """One run of the stage: a pass over the tokens, before and after alignment."""

    def __init__(
        self,
        work: Work,
        source: Store,
        fitted: Store | None,
        params: CompareParams,
        options: RunOptions,
        console: Console,
    ) -> None:
        self.work, self.source, self.fitted, self.console = work, source, fitted, console
        device = resolve_device(options.device)
        self.spaces = {"before": FeatureSpace.of(source, None, device)}
        if fitted is not None:
            self.spaces["after"] = FeatureSpace.of(source, fitted, device)
        self.axes = source.axes
        n_images = len(source.read("images/id"))
        self.n_images = min(params.images or n_images, n_images)

    def run(self) -> Outcome:
        """Plan, pass over the tokens, and write tables and picture."""
        for space in self.spaces.values():
            space.require()
        self._require_same_tokens()
        slots = self.axes.slots
        width = max(space.width(comparable=False) for space in self.spaces.values())
        row_bytes = len(slots) * self.axes.models[0].n_tokens * width * 4
        per_read = max(self.spaces["before"].images_per_read().values())
        step = max(1, min(per_read, BLOCK_BYTES // row_bytes))
        plan = Plan(
            phases={"compare": 1},
            memory=PROCESS_BYTES + 4 * step * row_bytes,
            disk=1_000_000,
            notes={"slots": len(slots), "images": self.n_images},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        sums = {name: SlotSimilarity(len(slots)) for name in self.spaces}
        spans = list(image_slices(self.n_images, step))
        with self.console.progress("compare", self.n_images, unit="images") as progress:
            for images, values in zip(spans, read_ahead((lambda i=i: self._load(i)) for i in spans), strict=True):
                for name, space in self.spaces.items():
                    rows = [space.map_rows(v, slot) for slot, v in zip(slots, values, strict=True)]
                    sums[name].add([r[:, : space.own_width(s.model)] for s, r in zip(slots, rows, strict=True)])
                progress.advance(images.stop - images.start)
        matrices = {name: total.result() for name, total in sums.items()}
        controls = collect_controls(self.source, self.fitted)
        self.work.staging.mkdir(exist_ok=True)
        labels = [str(slot) for slot in slots]
        for name, matrix in matrices.items():
            table = [[label, *map(_round, row)] for label, row in zip(labels, matrix, strict=True)]
            own = collect_controls(self.source, self.fitted if name == "after" else None)
            write_csv(self.work.staging / f"similarity-{name}.csv", ["slot", *labels], table, controls=own)
        draw_similarity(self.work.staging / "similarity.png", matrices, labels, controls=controls)
        models = [slot.model for slot in slots]
        means = {name: mean_between_models(matrix, models) for name, matrix in matrices.items()}
        self.work.mark("compare")
        for name, mean in means.items():
            text = "not defined" if mean is None else f"{mean:.3f}"
            self.console.note(f"mean cosine of the same token between models, {name} alignment: {text}")
        return self.work.finish(
            models=self.axes.names, summary={"between_models": means, "images": self.n_images}, controls=controls
        )

    def _require_same_tokens(self) -> None:
        """Refuse models whose token k is not the same place in the image."""
        first = self.axes.models[0]
        for model in self.axes.models[1:]:
            same = (model.grid, model.class_token, model.n_tokens) == (first.grid, first.class_token, first.n_tokens)
            token = f"{model.name}/token"
            if same and self.source.has(token):
                same = bool(np.array_equal(self.source.read(token), self.source.read(f"{first.name}/token")))
            if not same:
                raise BadInput(
                    f"{first.name} and {model.name} have different tokens, so no token can be compared with itself",
                    do="Extract both with the same grid, such as --model NAME=TIMM_NAME@PIXELS.",
                )

    def _load(self, images: slice) -> list[NDArray[np.float16]]:
        return [self.spaces["before"].load(Block(slot, images)) for slot in self.axes.slots]


def _round(cosine: float) -> str | None:
    return f"{cosine:.6f}" if np.isfinite(cosine) else None
