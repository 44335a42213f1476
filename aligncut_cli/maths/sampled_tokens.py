"""The same sampled tokens as every slot sees them: which ones, whole images exchanged, positions' means taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput

Index = NDArray[np.int64]

# Rows converted at a time where a position's mean is measured or taken out.
_ROWS = 4096


@dataclass(frozen=True)
class SlotRows:
    """One slot's features of the sampled tokens, in memory as they were stored.

    values : (m, D) any floating type
    places : (m,) ascending, the sampled tokens that the slot has; None if it has all
    order  : (m,) the row of `values` for each place, where images are exchanged or some rows left out; None if its own
    """

    values: NDArray[Any]
    places: Index | None = None
    order: Index | None = None

    def __len__(self) -> int:
        return len(self.values if self.order is None else self.order)

    @property
    def width(self) -> int:
        """Channels, D."""
        return int(self.values.shape[1])

    def read(self, rows: slice) -> NDArray[Any]:
        """Return some rows as they are stored, (b, D)."""
        block: NDArray[Any] = self.values[rows] if self.order is None else self.values[self.order[rows]]
        return block

    def pick(self, order: Index, places: Index | None = None) -> SlotRows:
        """Return some of the rows in another order, which then have these places; nothing is copied."""
        return SlotRows(self.values, places, order if self.order is None else self.order[order])


@dataclass(frozen=True)
class SampledTokens:
    """The same n tokens in every slot; row k is the same (image, position) in all of them.

    slots     : (slots,) their features; a slot without class token lacks those rows
    images    : (n,) int64, the image of each token
    positions : (n,) int64, its place: 0 is the class token, then the patches of the reference grid row by row
    """

    slots: tuple[SlotRows, ...]
    images: Index
    positions: Index

    def __post_init__(self) -> None:
        if len(self.images) != len(self.positions):
            raise BadInput(f"{len(self.images)} images and {len(self.positions)} positions for the same tokens")
        for number, slot in enumerate(self.slots):
            expected = len(self.images) if slot.places is None else len(slot.places)
            if len(slot) != expected:
                raise BadInput(f"slot {number} has {len(slot)} rows for {expected} sampled tokens")

    def __len__(self) -> int:
        return len(self.images)

    def shuffle_images(self, *, seed: int, keys: Sequence[int | np.uint64]) -> SampledTokens:
        """Give every slot the tokens of other images at the same positions: what stays shared is position.

        The features are not copied.

        keys : per slot `stable_hash(seed, model, layer)`, so that the order of the slots does not matter
        """
        slots = []
        for number, (slot, key) in enumerate(zip(self.slots, keys, strict=True)):
            order = exchange_images(self.images, self.positions, seed=seed, key=key)
            if slot.places is not None:
                taken = order[slot.places]
                order = np.searchsorted(slot.places, taken).clip(max=len(slot) - 1)
                if not np.array_equal(slot.places[order], taken):
                    raise BadInput(f"slot {number} has a position of some images only, so images cannot be exchanged")
            slots.append(slot.pick(order, slot.places))
        return replace(self, slots=tuple(slots))

    def keep_common(self) -> SampledTokens:
        """Leave out the tokens that some slot lacks; the features are not copied."""
        common = np.arange(len(self), dtype=np.int64)
        for slot in self.slots:
            if slot.places is not None:
                common = np.intersect1d(common, slot.places)
        slots = [
            slot.pick(common if slot.places is None else np.searchsorted(slot.places, common)) for slot in self.slots
        ]
        return SampledTokens(tuple(slots), self.images[common], self.positions[common])


def choose_tokens(image_keys: NDArray[np.uint64], n_positions: int, n_tokens: int, *, seed: int) -> tuple[Index, Index]:
    """Draw about n tokens so that whole images can be exchanged: groups of images, each with positions of its own.

    Every position is drawn about equally often, every image equally often. With fewer than two images per group
    groups are fewer, and some positions are left out.

    image_keys  : (images,) uint64, `stable_hash(seed, purpose, image id)`; the images' order does not matter
    n_positions : P, class token and patches of the reference grid
    n_tokens    : at most this many are drawn (one at least)
    returns     : (n,) images, rows of image_keys, and (n,) positions, ascending by image and position
    """
    n_images = max(1, min(len(image_keys), n_tokens))
    per_image = int(np.clip(n_tokens // n_images, 1, n_positions))
    n_groups = max(1, min(-(-n_positions // per_image), n_images // 2))
    chosen = np.argsort(image_keys, kind="stable")[:n_images]
    dealt = np.random.default_rng([seed, 5]).permutation(n_positions)
    groups = np.stack(
        [np.sort(dealt[(group * per_image + np.arange(per_image)) % n_positions]) for group in range(n_groups)]
    )
    positions = groups[np.arange(n_images) % n_groups]
    order = np.argsort(chosen)
    return np.repeat(chosen[order], per_image).astype(np.int64), positions[order].reshape(-1).astype(np.int64)


def exchange_images(images: Index, positions: Index, *, seed: int, key: int | np.uint64) -> Index:
    """Permute whole images among those with the same positions, so that no token keeps its own image.

    Where some image shares its positions with no other (a store of sampled tokens), tokens are permuted position by
    position instead; a position that only one image has keeps its own.

    images, positions : (n,) of the tokens; none twice
    key               : of the slot
    returns           : (n,) for each token the row of the one at the same position that stands in for it
    """
    rng = np.random.default_rng([seed, 6, int(key)])
    rows = np.lexsort((positions, images))
    starts = np.flatnonzero(np.diff(images[rows], prepend=-1))
    tokens_of = np.split(rows, starts[1:])
    sharing: dict[bytes, list[Index]] = {}
    for tokens in tokens_of:
        sharing.setdefault(positions[tokens].tobytes(), []).append(tokens)
    order = np.arange(len(images), dtype=np.int64)
    if min(map(len, sharing.values()), default=0) > 1:
        groups = [np.stack(group) for group in sharing.values()]
    else:
        by_position = np.lexsort((images, positions))
        starts = np.flatnonzero(np.diff(positions[by_position], prepend=-1))
        groups = [tokens[:, None] for tokens in np.split(by_position, starts[1:])]
    for group in groups:
        # One random cycle, as in `control_targets.shuffle_pairs`.
        cycle = rng.permutation(len(group))
        order[group[cycle]] = group[np.roll(cycle, 1)]
    return order


def measure_position_means(slot: SlotRows, positions: Index, n_positions: int) -> NDArray[np.float32]:
    """Mean token of every position.

    positions   : (n,) of the sampled tokens
    n_positions : P
    returns     : (P, D); the mean over all rows where no token has that position
    """
    at = positions if slot.places is None else positions[slot.places]
    sums = np.zeros((n_positions, slot.width))
    for start in range(0, len(slot), _ROWS):
        rows = slice(start, start + _ROWS)
        block = slot.read(rows).astype(np.float64)
        order = np.argsort(at[rows], kind="stable")
        seen, first = np.unique(at[rows][order], return_index=True)
        sums[seen] += np.add.reduceat(block[order], first, axis=0)
    counts = np.bincount(at, minlength=n_positions)
    overall = sums.sum(axis=0) / max(len(slot), 1)
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], overall)
    return means.astype(np.float32)


def remove_position_means_(slot: SlotRows, positions: Index, means: NDArray[np.float32]) -> None:
    """Subtract each position's mean from a slot's values, in place; a control is made of the result, not before it.

    positions : (n,) of the sampled tokens
    means     : (P, D) of the training tokens
    """
    if slot.order is not None:
        raise BadInput("positions' means are taken out of a slot whose images have been exchanged")
    at = positions if slot.places is None else positions[slot.places]
    for start in range(0, len(slot), _ROWS):
        rows = slice(start, start + _ROWS)
        slot.values[rows] = slot.values[rows].astype(np.result_type(slot.values, np.float32)) - means[at[rows]]
