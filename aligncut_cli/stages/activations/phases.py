"""The computation of `activations`: figure and ground pooled model by model, and similarity maps token by token.

Memory is bounded by construction: three blocks of images at a time, one mask, and sums per slot, channel and ROI.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligncut_cli.console import Console
from aligncut_cli.masks import MaskSet
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.params import ActivationsParams, RunOptions
from aligncut_cli.stages.activations.figure_ground import Activations, FigureGround
from aligncut_cli.stages.activations.similarity import TokenSimilarity
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.nodes import ModelAxes, TokenPlace, parse_token, require_tokens
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work

PROCESS_BYTES = 700_000_000


class ActivationsStage:
    """One run of the stage: models with masks, and tokens to compare to."""

    def __init__(
        self,
        work: Work,
        source: Store,
        alignment: Store,
        masks: MaskSet | None,
        params: ActivationsParams,
        options: RunOptions,
        console: Console,
        *,
        photos: Path | str | None,
    ) -> None:
        self.work, self.params, self.console = work, params, console
        self.axes, self.alignment = source.axes, Alignment(alignment)
        self.space = FeatureSpace.universal(source, alignment, resolve_device(options.device))
        self.photos = Photos(self.space.features.images(), photos)
        self.roi_names, rois = self.alignment.stack_rois(with_all=True)
        self.controls = collect_controls(source, alignment)
        require_tokens(self.axes, source.path)
        self.space.require()
        ids = self.space.features.ids
        self.pooled: FigureGround | None = None
        if masks is not None:
            masks.require(ids)
            self.pooled = FigureGround(self.space, self.alignment, rois, masks, self.photos, work.scratch, console)
        self.places: list[tuple[str, TokenPlace]] = []
        self.similarity: TokenSimilarity | None = None
        if params.slot is not None:
            slot = self.axes.slot(params.slot)
            self.places = [(text, parse_token(text, ids, self.axes[slot.model])) for text in params.token]
            self.similarity = TokenSimilarity(self.space, self.alignment, slot, self.photos, params, console)

    def plan(self) -> Plan:
        """Return the bytes of three blocks of one model's layers, of one image of them, and of the readout."""
        per_block = self.space.images_per_read()
        block = max(
            per_block[m.name] * m.n_tokens * len(m.layers) * self.space.n_channels_stored(m.name)
            for m in self.axes.models
        )
        universal, voxels = self.alignment.shape
        return Plan(
            memory=PROCESS_BYTES + 3 * 2 * block + 40 * block // max(per_block.values()) + 12 * universal * voxels,
            disk=len(self.places) * len(self.photos) * 4 * 400 + 1_000_000,
            notes={"images": len(self.photos), "ROIs": len(self.roi_names)},
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order; without masks or without tokens one of them has no blocks."""
        models: Sequence[ModelAxes] = () if self.pooled is None else self.axes.models
        return [
            Phase("masks", models, self._pool, parallel=True),
            Phase("compare", self.places, self._compare, parallel=True),
            single_step("tables", self._write_tables),
        ]

    # phases

    def _pool(self, index: int, model: ModelAxes, data: None) -> None:
        self.work.scratch.mkdir(exist_ok=True)
        if self.pooled is not None:
            self.pooled.pool(index, model)

    def _compare(self, index: int, token: tuple[str, TokenPlace], data: None) -> None:
        self.work.staging.mkdir(exist_ok=True)
        if self.similarity is not None:
            self.similarity.write(self.work.staging, *token, controls=self.controls)

    def _write_tables(self) -> None:
        self.work.staging.mkdir(exist_ok=True)
        if self.pooled is not None:
            Activations.of(self.pooled, self.roi_names).write(self.work.staging, controls=self.controls)

    # ending

    def finish(self) -> Outcome:
        """Give the folder its name, with the largest difference."""
        summary: dict[str, Any] = {"images": len(self.photos), "rois": len(self.roi_names)}
        if self.pooled is not None:
            found = Activations.of(self.pooled, self.roi_names)
            found.show(self.console, controls=self.controls)
            summary |= found.summary()
        if self.similarity is not None:
            drawn = {image for _, place in self.places for image in self.similarity.shown(place)}
            self.photos.look_for(drawn)  # another process may have drawn them
            self.photos.say_missing(self.console)
        return self.work.finish(models=self.axes.names, summary=summary, controls=self.controls)
