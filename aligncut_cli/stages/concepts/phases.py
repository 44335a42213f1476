"""The computation of `concepts`: centres, members' moments slot by slot, then tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.concepts import CENTRE_RULE, RADIUS_RULE
from aligncut_cli.params import ConceptsParams
from aligncut_cli.stages.concepts.controls import ControlFits
from aligncut_cli.stages.concepts.members import Members
from aligncut_cli.stages.concepts.patches import draw_patches
from aligncut_cli.stages.concepts.tables import Findings, Readout
from aligncut_cli.stages.device import settle_device
from aligncut_cli.stages.patches import Centres, place_concepts
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.stages.style import read_style
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.kinds.tsne import SAMPLE_COORDS, Tsne
from aligncut_cli.store.nodes import Slot, require_tokens
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work, write_json
from aligncut_cli.viz.concept_plots import plot_concept_map
from aligncut_cli.viz.figures import save_figure

PROCESS_BYTES = 700_000_000
CLOUD_POINTS = 6000
NO_READOUT = "no activations of voxels and ROIs: they need an alignment with a readout"


class ConceptsStage:
    """One run of the stage, over the slots asked for; what the brain says is left out where there is no readout."""

    def __init__(
        self,
        work: Work,
        source: Store,
        features: Store | None,
        alignment: Store | None,
        against: Sequence[Store],
        params: ConceptsParams,
        *,
        photos: Path | str | None,
    ) -> None:
        self.work, self.params, self.console = work, params, work.console
        self.source = Tsne(source)
        self.axes = source.axes
        self.style = read_style(params, source.axes.names)
        self.slots = [self.axes.slot(text) for text in dict.fromkeys(params.slot)] or self.axes.slots
        self.controls = collect_controls(source, features, alignment)
        self.photos = Photos(self.source.images(), photos)
        require_tokens(self.axes, source.path)
        self._require_one_map()
        self.space: FeatureSpace | None = None
        self.alignment = None if alignment is None else Alignment(alignment)
        if alignment is not None and self.alignment is not None and self.alignment.has_readout:
            if features is None:
                raise UsageError("--alignment needs --features", do="Give the features that the map was made of.")
            self.space = FeatureSpace.universal(features, alignment, settle_device(work))
            self.space.require()
            self._require_same_nodes(self.space)
            self.fits = ControlFits(against, self.alignment, self.space, self.slots)
        elif against:
            raise UsageError(
                "--controls needs an alignment with a readout", do="Give --alignment A.zarr, fitted to responses."
            )
        self.members = Members(
            self.source, self.space, self.slots, work.scratch, n_nearest=params.patches, console=work.console
        )

    def _require_same_nodes(self, space: FeatureSpace) -> None:
        """Require features of every node that is on the map."""
        theirs, path = space.axes, self.source.store.path
        for slot in self.slots:
            model = self.axes[slot.model]
            if slot.model not in theirs.names or slot.layer not in theirs[slot.model].layers:
                raise BadInput(f"{space.path} has no features of {slot}", do="Give those the map was made of.")
            if theirs[slot.model].n_tokens != model.n_tokens:
                raise BadInput(f"{space.path} has other tokens of {slot.model} than {path}")
        if space.features.ids != self.source.ids:
            raise BadInput(f"{space.path} has other images than {path}")

    def _require_one_map(self) -> None:
        maps = [name for name, slots in self.source.groups if any(slot in slots for slot in self.slots)]
        if len(maps) > 1:
            raise UsageError(
                f"{self.source.store.path} has {len(maps)} maps, and one concept cannot lie on two",
                do=f"Choose slots of one map, such as --slot {self.slots[0]}, or make eigs with --group all.",
            )

    def plan(self) -> Plan:
        """Return the bytes of the concepts' moments, of the readout and of a block."""
        k, rows = self.params.concepts, self.members.largest_block
        memory, disk = PROCESS_BYTES + self.params.sample * 200 + rows * k * 30, 1_000_000
        if self.space is not None and self.alignment is not None:
            channels, voxels = self.space.width(comparable=True), self.alignment.shape[1]
            stored = max(self.space.n_channels_stored(slot.model) for slot in self.slots)
            memory += 3 * k * channels**2 * 8 + voxels * (channels * 24 + k * 80) + rows * channels * 20
            memory += self.fits.count * k * 40 + k * len(self.slots) * stored * 8 + channels * stored * 12
            disk += len(self.slots) * k * channels**2 * 8 + 2 * k * voxels * 8
        return Plan(memory=memory, disk=disk, notes={"slots": len(self.slots), "images": len(self.photos)})

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        return [
            single_step("centres", self._place_centres),
            Phase("members", self.slots, self._add_members, parallel=True),
            single_step("tables", self._write_tables),
        ]

    # phases

    def _place_centres(self) -> None:
        """Choose concepts among a sample of patches of all slots, and their radius."""
        centres = place_concepts(
            self.source,
            self.slots,
            n_concepts=self.params.concepts,
            n_sample=self.params.sample,
            radius=self.params.radius,
            sparse=self.params.sparse,
            seed=self.params.seed,
            console=self.console,
            label="centres",
        )
        self.work.scratch.mkdir(exist_ok=True)
        np.savez(self.work.scratch / "centres.npz", centres=centres.places, radius=centres.radius)

    def _load_centres(self) -> Centres:
        with np.load(self.work.scratch / "centres.npz") as saved:
            return Centres(saved["centres"], float(saved["radius"]))

    def _add_members(self, index: int, slot: Slot, data: None) -> None:
        self.members.add(index, self._load_centres())

    def _write_tables(self) -> None:
        """Write tables and pictures of all concepts, and keep their figures for the record."""
        folder = self.work.staging
        folder.mkdir(exist_ok=True)
        centres, members = self._load_centres(), self.members.load_slots()
        readout = None
        if self.space is not None and self.alignment is not None:
            moments = self.members.add_moments(len(centres.places))
            readout = Readout.of(moments, self.alignment, members, self.fits)
        found = Findings(centres, self.slots, members, readout, self.params.least_tokens)
        found.write(folder, style=self.style, controls=self.controls)
        self._draw_map(found)
        draw_patches(
            folder,
            self.members,
            centres,
            found.counts.tolist(),
            self.photos,
            n_patches=self.params.patches,
            style=self.style,
            controls=self.controls,
        )
        self.photos.say_missing(self.console)
        summary = {
            "concepts": len(centres.places),
            "radius": centres.radius,
            "centre_rule": CENTRE_RULE,
            "radius_rule": RADIUS_RULE if self.params.radius is None else "given",
            "slots": len(self.slots),
            **found.summary(),
        }
        said, warned = [NO_READOUT if readout is None else readout.describe()], []
        if readout is not None and readout.scored is None and self.alignment is not None:
            path = self.alignment.store.path
            warned.append(f"{path} names fewer than two ROIs, so concepts are not compared with them")
        said.append(found.as_text(controls=self.controls))
        shown = {"summary": summary, "said": list(filter(None, said)), "warned": warned}
        write_json(self.work.wip / "found.json", shown)

    def _draw_map(self, found: Findings) -> None:
        """Draw the concepts on the map, over some of its nodes."""
        own = next(at for at, (_, slots) in enumerate(self.source.groups) if self.slots[0] in slots)
        cloud = self.source.store.read(SAMPLE_COORDS.at(), own)
        figure = plot_concept_map(
            cloud[:: max(1, len(cloud) // CLOUD_POINTS)],
            found.centres.places,
            found.centres.radius,
            found.few,
            style=self.style,
            controls=self.controls,
        )
        save_figure(figure, self.style.file(self.work.staging, "map"))

    def finish(self) -> Outcome:
        """Give the folder its name."""
        found = json.loads((self.work.wip / "found.json").read_text(encoding="utf-8"))
        return self.work.finish(models=self.axes.names, controls=self.controls, **found)
