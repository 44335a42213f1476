"""Counts the tokens that move from concept to concept between two slots, image by image, and writes the counts.

Memory is bounded: three blocks of images at a time, counts whose size depends on concepts and permutations only, and of
the masks two bits a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.concepts import find_members
from aligncut_cli.maths.permutations import ExchangedMasks
from aligncut_cli.maths.transitions import TransitionCounts, TransitionResult
from aligncut_cli.params import TransitionsParams
from aligncut_cli.stages.patches import Centres
from aligncut_cli.stages.transitions.layout import Layout, Pair
from aligncut_cli.store.kinds.transitions import (
    ALONG_MOVES,
    CENTRES,
    FOREGROUND,
    FROM,
    MODEL_CONCEPTS,
    MODEL_RADIUS,
    NULL,
    PAIR_MOVES,
    RADIUS,
    SLOT_RADIUS,
    TESTED,
    TESTS,
    TO,
)
from aligncut_cli.store.kinds.tsne import Tsne
from aligncut_cli.store.nodes import Slot
from aligncut_cli.store.phases import load_ahead
from aligncut_cli.store.write import Writer


class SlotConcepts:
    """The concepts of every slot, kept in scratch while the stage runs."""

    def __init__(self, scratch: Writer, slots: Sequence[Slot]) -> None:
        self.scratch, self.slots = scratch, list(slots)

    def write(self, slot: Slot, centres: Centres) -> None:
        """Keep a slot's concepts."""
        index = self.slots.index(slot)
        self.scratch.write(CENTRES.at(), index, centres.places)
        self.scratch.write(SLOT_RADIUS.at(), slice(index, index + 1), np.array([centres.radius]))

    def read(self, slot: Slot) -> Centres:
        """Return a slot's concepts."""
        index = self.slots.index(slot)
        radius = self.scratch.read(SLOT_RADIUS.at(), slice(index, index + 1))
        return Centres(self.scratch.read(CENTRES.at(), index), float(radius[0]))


class PairCounter:
    """Counts a pair of slots in one pass over the images."""

    def __init__(
        self, source: Tsne, layout: Layout, concepts: SlotConcepts, scratch: Writer, params: TransitionsParams
    ) -> None:
        self.source, self.layout, self.concepts, self.scratch, self.params = source, layout, concepts, scratch, params

    def count(self, pair: Pair) -> TransitionResult:
        """Count all tokens, and where there are masks those of foreground and background apart."""
        a, b = self.concepts.read(pair.before), self.concepts.read(pair.after)
        counts = TransitionCounts(len(a.places), len(b.places), masks=self._read_masks(pair.before.model))
        for images, (before, after) in load_ahead(self.layout.blocks, lambda i: self._load(pair, i)):
            inside_a = find_members(before, a.places, radius=a.radius)
            inside_b = find_members(after, b.places, radius=b.radius)
            for at, image in enumerate(range(images.start, images.stop)):
                counts.add(inside_a[at], inside_b[at], image=image)
        return counts.finish()

    def _read_masks(self, model: str) -> ExchangedMasks | None:
        """Return the masks of all images on a model's grid; the same exchanges for every pair of slots."""
        if len(self.layout.token_kinds) == 1:
            return None
        foreground = self.scratch.read(FOREGROUND.at(model))
        return ExchangedMasks(foreground, n_permutations=self.params.permutations, seed=self.params.seed)

    def _load(self, pair: Pair, images: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the patches' places in both slots, (image, patch, dim)."""
        places = [self.source.patches(s.model, images, layers=s.position) for s in (pair.before, pair.after)]
        return places[0], places[1]


class PairWriter:
    """Writes counts and concepts of a pair to the store, and its test to scratch, for the table at the end."""

    def __init__(self, writer: Writer, scratch: Writer, layout: Layout, concepts: SlotConcepts) -> None:
        self.writer, self.scratch, self.layout, self.concepts = writer, scratch, layout, concepts

    def write(self, index: int, pair: Pair, result: TransitionResult) -> None:
        """Write all that is known of a pair; no chunk is also another pair's."""
        tests = [result.bifurcation, result.expected, result.p]
        self.scratch.write(TESTS.at(), index, np.array(tests))
        if len(self.layout.token_kinds) > 1:
            self.scratch.write(NULL.at(), index, result.null)
        if pair.step is None:
            self._write_pair(pair, result)
        else:
            self._write_step(pair, pair.step, result, tests)

    def _write_pair(self, pair: Pair, result: TransitionResult) -> None:
        a, b = self.concepts.read(pair.before), self.concepts.read(pair.after)
        self.writer.write(FROM.at(), ..., a.places)
        self.writer.write(TO.at(), ..., b.places)
        self.writer.write(RADIUS.at(), ..., np.array([a.radius, b.radius]))
        for position, kind in enumerate(self.layout.token_kinds):
            for name, array in PAIR_MOVES.items():
                self.writer.write(array.at(kind), ..., getattr(result, name)[position])

    def _write_step(self, pair: Pair, step: int, result: TransitionResult, tests: Sequence[float]) -> None:
        model, here = pair.before.model, slice(step, step + 1)
        for slot in (pair.before, pair.after) if step == 0 else (pair.after,):  # the one before is the last step's
            centres, layer = self.concepts.read(slot), slice(slot.position, slot.position + 1)
            self.writer.write(MODEL_CONCEPTS.at(model), slot.position, centres.places)
            self.writer.write(MODEL_RADIUS.at(model), layer, np.array([centres.radius]))
        n_kinds = len(self.layout.token_kinds)
        for name, array in ALONG_MOVES.items():
            values: NDArray[Any] = getattr(result, name)[:n_kinds, None]
            self.writer.write(array.at(model), (slice(None), here), values)
        if n_kinds > 1:
            for array, value in zip(TESTED.values(), tests, strict=False):
                self.writer.write(array.at(model), here, np.array([value]))
