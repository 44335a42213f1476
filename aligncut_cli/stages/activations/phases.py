"""The computation of `activations`: figure and ground by model, channels by images, similarity maps by token.

Memory is bounded by construction: three blocks of images at a time, one mask, and sums per slot, channel and ROI.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligncut_cli.errors import UsageError
from aligncut_cli.masks import MaskSet
from aligncut_cli.params import ActivationsParams
from aligncut_cli.stages.activations.channels import DrivingPatches
from aligncut_cli.stages.activations.figure_ground import Activations, FigureGround
from aligncut_cli.stages.activations.similarity import TokenSimilarity
from aligncut_cli.stages.device import settle_device
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.stages.style import read_style
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.nodes import ModelAxes, TokenPlace, parse_token, require_tokens
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work

PROCESS_BYTES = 700_000_000


class ActivationsStage:
    """One run of the stage: models with masks, channels of areas, and tokens to compare to."""

    def __init__(
        self,
        work: Work,
        source: Store,
        alignment: Store,
        masks: MaskSet | None,
        params: ActivationsParams,
        *,
        photos: Path | str | None,
    ) -> None:
        self.work, self.params, self.console = work, params, work.console
        self.axes, self.alignment = source.axes, Alignment(alignment)
        self.space = FeatureSpace.universal(source, alignment, settle_device(work))
        self.photos = Photos(self.space.features.images(), photos)
        self.roi_names: list[str] = []
        self.style = read_style(params, source.axes.names)
        self.controls = collect_controls(source, alignment)
        require_tokens(self.axes, source.path)
        self.space.require()
        ids = self.space.features.ids
        self.pooled: FigureGround | None = None
        if masks is not None:
            self.alignment.require_readout("--masks")
            masks.require(ids)
            self.roi_names, rois = self.alignment.stack_rois(with_all=True)
            self.pooled = FigureGround(self.space, self.alignment, rois, masks, self.photos, work.scratch, work.console)
        self.places: list[tuple[str, TokenPlace]] = []
        self.similarity: TokenSimilarity | None = None
        if params.slot is not None:
            slot = self.axes.slot(params.slot)
            self.places = [(text, parse_token(text, ids, self.axes[slot.model])) for text in params.token]
            if params.space == "brain":
                self.alignment.require_readout("--space brain")
            self.similarity = TokenSimilarity(self.space, self.alignment, slot, self.photos, params, work.console)
        self.channels: DrivingPatches | None = None
        if params.channels and (masks is not None or not params.token):
            self.channels = self._open_channels(needed=masks is None)

    def _open_channels(self, *, needed: bool) -> DrivingPatches | None:
        """Return what finds the patches that drive channels; None where the alignment cannot say which matter.

        needed : whether nothing else was asked for, so that it must
        """
        deviation = self.alignment.read_deviation()
        if deviation is not None and self.alignment.has_readout:
            found = DrivingPatches(self.space, self.alignment, deviation, self.photos, self.params, self.work.scratch)
            if found.left_out:
                self.console.note(f"channels are shown without {', '.join(found.left_out)}: their patches are others")
            return found
        why = f"{self.alignment.store.path} does not say how much each channel varies, or has no readout"
        if needed:
            raise UsageError(
                "nothing says what to compare",
                why=f"{why}, so no channels can be shown.",
                do="Give --masks DIR, or --token IMAGE:ROW,COL --slot clip:5.",
            )
        self.console.note(f"no channels.png: {why}; `align` fits it again")
        return None

    def plan(self) -> Plan:
        """Return the bytes of three blocks of one model's layers, of one image of them, and of the readout."""
        per_block = self.space.images_per_read()
        block = max(
            per_block[m.name] * m.n_tokens * len(m.layers) * self.space.n_channels_stored(m.name)
            for m in self.axes.models
        )
        memory = PROCESS_BYTES + 3 * 2 * block + 40 * block // max(per_block.values())
        if self.alignment.has_readout:
            universal, voxels = self.alignment.shape
            memory += 12 * universal * voxels
        if self.channels is not None:
            memory = max(memory, PROCESS_BYTES + self.channels.block_bytes)
        return Plan(
            memory=memory,
            disk=len(self.places) * len(self.photos) * 4 * 400 + 1_000_000,
            notes={"images": len(self.photos), "ROIs": len(self.roi_names)},
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order; without masks or without tokens one of them has no blocks."""
        models: Sequence[ModelAxes] = () if self.pooled is None else self.axes.models
        blocks: Sequence[slice] = () if self.channels is None else self.channels.blocks
        return [
            Phase("masks", models, self._pool, parallel=True),
            Phase(
                "channels",
                blocks,
                self._find_patches,
                unit="images",
                size=lambda images: int(images.stop - images.start),
                parallel=True,
            ),
            Phase("compare", self.places, self._compare, parallel=True),
            single_step("tables", self._write_tables),
        ]

    # phases

    def _pool(self, index: int, model: ModelAxes, data: None) -> None:
        self.work.scratch.mkdir(exist_ok=True)
        if self.pooled is not None:
            self.pooled.pool(index, model)

    def _find_patches(self, index: int, images: slice, data: None) -> None:
        self.work.scratch.mkdir(exist_ok=True)
        if self.channels is not None:
            self.channels.find(index, images)

    def _compare(self, index: int, token: tuple[str, TokenPlace], data: None) -> None:
        self.work.staging.mkdir(exist_ok=True)
        if self.similarity is not None:
            self.similarity.write(self.work.staging, *token, style=self.style, controls=self.controls)

    def _write_tables(self) -> None:
        self.work.staging.mkdir(exist_ok=True)
        if self.pooled is not None:
            Activations.of(self.pooled, self.roi_names).write(
                self.work.staging, style=self.style, controls=self.controls
            )
        if self.channels is not None:
            self.channels.write(self.work.staging, style=self.style, controls=self.controls)

    # ending

    def finish(self) -> Outcome:
        """Give the folder its name, with the largest difference."""
        summary: dict[str, Any] = {"images": len(self.photos), "rois": len(self.roi_names)}
        said = []
        if self.pooled is not None:
            found = Activations.of(self.pooled, self.roi_names)
            said.append(found.as_text(controls=self.controls))
            summary |= found.summary()
        drawn = set() if self.channels is None else self.channels.drawn()
        if self.similarity is not None:
            drawn |= {image for _, place in self.places for image in self.similarity.shown(place)}
        self.photos.look_for(drawn)  # another process may have drawn them
        self.photos.say_missing(self.console)
        return self.work.finish(models=self.axes.names, summary=summary, said=said, controls=self.controls)
