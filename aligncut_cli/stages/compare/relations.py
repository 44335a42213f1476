"""Linear CKA and canonical correlations of the slots, on tokens sampled as they stream past, and by chance.

No rotation of a slot's channels changes CKA, and no invertible map at all changes canonical correlations of all its
components; an alignment that keeps what a slot holds has little to change. So they are measured once, on the features
as they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Progress
from aligncut_cli.maths.cka import compute_canonical_correlations, compute_linear_cka
from aligncut_cli.maths.sampled_tokens import SampledTokens, SlotRows, choose_tokens
from aligncut_cli.maths.sampling import stable_hash
from aligncut_cli.maths.slot_ridge import RowReader
from aligncut_cli.maths.slot_similarity import mean_between_models
from aligncut_cli.stages.space import FeatureSpace

ROWS_PER_BLOCK = 512
# Components hold this share of a slot's variance, are so many at most, and have so many tokens each at least.
COMPONENTS_SHARE, MOST_COMPONENTS, TOKENS_PER_COMPONENT = 0.99, 50, 20
# At a position that few images are seen at, two slots are often given the same image: positions are left out instead.
IMAGES_PER_POSITION = 20
# Fewer say nothing; and two images can be exchanged in one way only, the same in all slots.
LEAST_TOKENS, LEAST_IMAGES = 20, 3
MEASURES = {"cka": "linear CKA", "cca": "mean canonical correlation"}


@dataclass(frozen=True)
class Relation:
    """One measure of every pair of slots, NaN where there are too few images to tell.

    measured : (slots, slots)
    shuffled : (slots, slots) the same with the images of every slot exchanged: chance, and what position alone shares
    """

    measured: NDArray[np.float64]
    shuffled: NDArray[np.float64]

    def as_record(self, models: Sequence[str]) -> dict[str, float | None]:
        """Return both means over pairs of slots of different models, or of all different slots of a single one.

        models : of each slot
        """
        apart = models if len(set(models)) > 1 else [str(number) for number in range(len(models))]
        return {
            "measured": mean_between_models(self.measured, apart),
            "shuffled": mean_between_models(self.shuffled, apart),
        }


class SlotRelations:
    """Keeps the sampled tokens of every slot while blocks of images pass; image ids and seed decide which.

    source   : whose slots all have the same tokens
    n_images : the first so many images are sampled from
    count    : tokens at most, of every slot
    """

    def __init__(self, source: FeatureSpace, *, n_images: int, count: int, seed: int) -> None:
        self.seed, self.n_tokens = seed, source.axes.models[0].n_tokens
        self.keys = [int(stable_hash(seed, slot.model, slot.layer)) for slot in source.axes.slots]
        order = np.array([stable_hash(seed, "compare", name) for name in source.features.ids[:n_images]], np.uint64)
        most = max(1, count // IMAGES_PER_POSITION)
        drawn = np.sort(np.random.default_rng([seed, 7]).permutation(self.n_tokens)[:most])
        self.images, places = choose_tokens(order, len(drawn), count, seed=seed)
        self.places = drawn[places]
        self.values = [
            np.empty((len(self.images), source.n_channels_stored(slot.model)), np.float16) for slot in source.axes.slots
        ]

    def add(self, images: slice, blocks: Sequence[NDArray[np.float16]]) -> None:
        """Take what was sampled of some images.

        blocks : per slot (images x tokens, channel)
        """
        low, high = np.searchsorted(self.images, [images.start, images.stop])
        rows = (self.images[low:high] - images.start) * self.n_tokens + self.places[low:high]
        for kept, block in zip(self.values, blocks, strict=True):
            kept[low:high] = block[rows]

    def take(self, images: slice) -> list[NDArray[np.float16]]:
        """Return what was kept of some images, per slot (n, channel)."""
        low, high = np.searchsorted(self.images, [images.start, images.stop])
        return [kept[low:high] for kept in self.values]

    def put(self, images: slice, rows: Sequence[NDArray[np.float16]]) -> None:
        """Keep what another took of some images."""
        low, high = np.searchsorted(self.images, [images.start, images.stop])
        for kept, own in zip(self.values, rows, strict=True):
            kept[low:high] = own

    def result(self, reader: RowReader, progress: Progress) -> dict[str, Relation]:
        """Return every measure by its short name."""
        tokens = SampledTokens(tuple(SlotRows(rows) for rows in self.values), self.images, self.places)
        known = tokens if len(tokens) >= LEAST_TOKENS else None
        several = known is not None and len(np.unique(self.images)) >= LEAST_IMAGES
        exchanged = tokens.shuffle_images(seed=self.seed, keys=self.keys) if several else None
        unknown = np.full((len(self.values), len(self.values)), np.nan)
        found = {}
        for name in MEASURES:
            both = []
            for seen in (known, exchanged):
                both.append(unknown if seen is None else _measure(name, seen, reader))
                progress.advance()
            found[name] = Relation(*both)
        return found


def _measure(name: str, tokens: SampledTokens, reader: RowReader) -> NDArray[np.float64]:
    if name == "cka":
        return compute_linear_cka(tokens, debiased=True, reader=reader)
    most = min(MOST_COMPONENTS, len(tokens) // TOKENS_PER_COMPONENT)
    return compute_canonical_correlations(tokens, keep=COMPONENTS_SHARE, most=most, reader=reader)


def estimate_memory(widths: Sequence[int], count: int) -> int:
    """Return bytes of the sampled tokens, of a tile of every slot's kernel, and of the components' products.

    widths : (slots,) D_i
    """
    tiles = len(widths) * ROWS_PER_BLOCK**2 * 4 * 3
    products = 2 * 8 * (len(widths) * MOST_COMPONENTS) ** 2 + 6 * 8 * max(widths) ** 2
    return sum(widths) * count * 2 + tiles + products


def describe(records: Mapping[str, Mapping[str, float | None]]) -> str:
    """Say each measure's mean and its baseline."""
    parts = [
        f"{MEASURES[name]} {_say(record['measured'])}, with images exchanged {_say(record['shuffled'])}"
        for name, record in records.items()
    ]
    return "; ".join(parts)


def _say(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
