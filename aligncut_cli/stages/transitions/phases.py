"""The computation of `transitions`: concepts per slot, then tokens counted pair by pair of slots, and some followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console, format_table
from aligncut_cli.controls import title_with_controls
from aligncut_cli.masks import MaskSet
from aligncut_cli.maths.concepts import CENTRE_RULE, RADIUS_RULE, TooFewPlaces
from aligncut_cli.maths.finite import finite_or_none
from aligncut_cli.maths.grid import round_mask_to_grid
from aligncut_cli.maths.permutations import IMAGES_EXCHANGED, correct_for_highest
from aligncut_cli.params import TransitionsParams
from aligncut_cli.stages.patches import Centres, place_concepts
from aligncut_cli.stages.transitions.columns import BIFURCATION_KEYS, BIFURCATIONS
from aligncut_cli.stages.transitions.counting import PairCounter, PairWriter, SlotConcepts
from aligncut_cli.stages.transitions.layout import Layout, Pair
from aligncut_cli.store.kinds.base import put_images, require_model_group
from aligncut_cli.store.kinds.transitions import (
    ALONG,
    ALONG_MOVES,
    CENTRES,
    CORRECTED,
    FOLLOWED,
    FOREGROUND,
    NULL,
    PAIR,
    PAIR_MOVES,
    SLOT_RADIUS,
    TESTED,
    TESTS,
    TRACKS,
    TRAJECTORY,
)
from aligncut_cli.store.kinds.tsne import COORDS, Tsne
from aligncut_cli.store.nodes import Slot
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.store.write import Writer, create_group

PROCESS_BYTES = 700_000_000


class TransitionsStage:
    """One run of the stage: slots, pairs of slots, and followed tokens."""

    def __init__(
        self, work: Work, source: Store, masks: MaskSet | None, params: TransitionsParams, console: Console
    ) -> None:
        self.work, self.masks, self.params, self.console = work, masks, params, console
        self.source = Tsne(source)
        self.axes = source.axes
        self.images, self.ids = self.source.images(), self.source.ids
        self.controls = collect_controls(source)
        self.layout = Layout(self.source, params, masked=masks is not None)
        if masks is not None:
            masks.require(self.ids)
        self.writer, self.scratch = Writer(work.staging), Writer(work.scratch)
        self.concepts = SlotConcepts(self.scratch, self.layout.slots)
        self.counter = PairCounter(self.source, self.layout, self.concepts, self.scratch, params)
        self.pair_writer = PairWriter(self.writer, self.scratch, self.layout, self.concepts)

    def plan(self) -> Plan:
        """Return the bytes of the widest block, the largest mask and the permutations."""
        k, layout = self.params.concepts, self.layout
        widest = max(model.n_tokens for model in self.axes.models)
        largest = int((self.images["height"].astype(np.int64) * self.images["width"]).max())
        per_permutation = k * (k + 2) * 64 + min(IMAGES_EXCHANGED, layout.n_images) * 12 + widest * 16
        per_permutation += len(layout.pairs) * 32
        return Plan(
            memory=PROCESS_BYTES
            + self.params.sample * 200
            + layout.per_block * widest * 200
            + self.params.permutations * per_permutation
            + layout.n_images * widest * 2
            + 40 * largest,
            disk=len(layout.pairs) * 3 * k * k * 16 + layout.n_images * widest,
            notes={"images": layout.n_images, "slots": len(layout.slots), "pairs": len(layout.pairs)},
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        layout, masks = self.layout, self.masks
        phases: list[Phase[Any]] = [
            single_step("create", self._create),
            Phase("centres", layout.slots, self._place_concepts, parallel=True),
        ]
        if masks is not None:
            phases.append(
                Phase(
                    "masks",
                    layout.blocks,
                    lambda index, images, data: self._round_masks(masks, images),
                    unit="images",
                    size=lambda images: int(images.stop - images.start),
                    parallel=True,
                )
            )
        phases += [
            Phase("count", layout.pairs, self._count, unit="pairs", detail=str, parallel=True),
            single_step("correct", self._correct),
            Phase("follow", layout.followed, self._follow, parallel=True),
        ]
        return phases

    # phases

    def _create(self) -> None:
        root, scratch = create_group(self.work.staging), create_group(self.work.scratch)
        layout, sizes = self.layout, self.layout.sizes
        put_images(root, self.images, {})
        if layout.has_pair:
            for array in PAIR:
                array.create(root, {**sizes, "slot": 2})
            for kind in layout.token_kinds:
                for array in PAIR_MOVES.values():
                    array.create(root, sizes, kind)
        for name in layout.followed:
            group = require_model_group(root, self.axes[name])
            tested = TESTED.values() if self.masks is not None else ()
            along = (*ALONG, *ALONG_MOVES.values(), *tested) if name in layout.along else ()
            for array in (*TRACKS, *along):
                array.create(root, layout.model_sizes(name), name)
            if along:
                group.attrs["masks"] = list(layout.token_kinds)
        lengths = {"slot": len(layout.slots), "pair": len(layout.pairs), "test": len(TESTED) - 1}
        for array in (CENTRES, SLOT_RADIUS, TESTS, NULL, CORRECTED):
            array.create(scratch, {**sizes, **lengths, "permutation": self.params.permutations})
        for name in self.axes.names if self.masks is not None else ():
            FOREGROUND.create(scratch, layout.model_sizes(name), name)

    def _place_concepts(self, index: int, slot: Slot, data: None) -> None:
        """Choose the concepts of a slot among a sample of its patches, and their radius.

        Along a model, a slot of too few places gets none (NaN), and the steps to and from it say so.
        """
        try:
            centres = place_concepts(
                self.source,
                [slot],
                n_concepts=self.params.concepts,
                n_sample=self.params.sample,
                radius=self.params.radius,
                sparse=self.params.sparse,
                seed=self.params.seed,
                console=self.console,
                label=str(slot),
            )
        except TooFewPlaces:
            if self.layout.has_pair:
                raise
            nowhere = np.full((self.params.concepts, self.source.n_dims), np.nan, np.float32)
            centres = Centres(nowhere, float("nan"))
        self.concepts.write(slot, centres)

    def _round_masks(self, masks: MaskSet, images: slice) -> None:
        """Round masks to each grid: 1 = foreground, any class but 0; 0 = background; -1 = ignored."""
        parts: dict[str, list[NDArray[np.int8]]] = {name: [] for name in self.axes.names}
        for image in range(images.start, images.stop):
            size = int(self.images["height"][image]), int(self.images["width"][image])
            mask = masks.read(self.ids[image], size=size)
            figure = np.where(mask > 0, 1, mask).astype(np.int16)
            for model in self.axes.models:
                parts[model.name].append(round_mask_to_grid(figure, model.grid, n_classes=2).astype(np.int8))
        for name, rows in parts.items():
            self.scratch.write(FOREGROUND.at(name), images, np.stack(rows))

    def _count(self, index: int, pair: Pair, data: None) -> None:
        self.pair_writer.write(index, pair, self.counter.count(pair))

    def _correct(self) -> None:
        """Correct the p-values of all pairs for the highest, which sees the same exchanges of masks at every pair."""
        tests = self.scratch.read(TESTS.at())
        corrected = np.full(len(tests), np.nan)
        if self.masks is not None:
            corrected = correct_for_highest(self.scratch.read(NULL.at()).T, tests[:, 0])
            corrected[np.isnan(tests[:, -1])] = np.nan
        self.scratch.write(CORRECTED.at(), ..., corrected)
        for pair, p in zip(self.layout.pairs, corrected, strict=True):
            if pair.step is not None and self.masks is not None:
                here = slice(pair.step, pair.step + 1)
                self.writer.write(TESTED["p_corrected"].at(pair.before.model), here, np.array([p]))

    def _follow(self, index: int, name: str, data: None) -> None:
        """Write the places of a model's followed tokens at every layer."""
        model, places = self.axes[name], self.layout.places[name]
        if not places:
            return
        rows = np.array([[place.image, place.row, place.column] for place in places], np.int32)
        paths = [
            self.source.store.read(COORDS.at(name), (slice(None), place.image))[:, place.token(model)]
            for place in places
        ]
        self.writer.write(FOLLOWED.at(name), ..., rows)
        self.writer.write(TRAJECTORY.at(name), ..., np.stack(paths))

    # ending

    def finish(self) -> Outcome:
        """Give the store its name, and show how far foreground and background part at every pair."""
        rows: list[list[Any]] = []
        tests, corrected = self.scratch.read(TESTS.at()), self.scratch.read(CORRECTED.at())
        radii = {slot: finite_or_none(round(self.concepts.read(slot).radius, 3)) for slot in self.layout.slots}
        for pair, values in zip(self.layout.pairs, np.column_stack([tests, corrected]), strict=True):
            slots = (pair.before, pair.after)
            rows.append([*map(str, slots), *(radii[slot] for slot in slots), *map(finite_or_none, values)])
        bifurcations = [dict(zip(BIFURCATION_KEYS, row, strict=True)) for row in rows]
        summary: dict[str, Any] = {
            "images": len(self.ids),
            "concepts": self.params.concepts,
            "centre_rule": CENTRE_RULE,
            "radius_rule": RADIUS_RULE if self.params.radius is None else "given",
        }
        if self.layout.has_pair:
            summary |= {name: bifurcations[0][name] for name in ("from", "to", *TESTED)}
        said = [format_table(BIFURCATIONS, rows, title=title_with_controls("", self.controls))]
        empty = [str(slot) for slot, radius in radii.items() if radius is None]
        if empty:
            said.append(
                f"without concepts, since all patches lie at fewer than {self.params.concepts} places: "
                f"{', '.join(empty)} (an alignment leaves out slots that predict no other)"
            )
        return self.work.finish(
            models=self.layout.followed,
            summary=summary,
            said=said,
            controls=self.controls,
            masks=list(self.layout.token_kinds),
            bifurcations=bifurcations,
            dims=self.source.n_dims,
        )
