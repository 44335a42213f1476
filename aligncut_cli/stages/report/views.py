"""Which stores of a report belong together: a view is one space of eigenvectors with its colours, maps and segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.store.kinds.base import AnyStore, Array
from aligncut_cli.store.kinds.eigs import Eigs
from aligncut_cli.store.kinds.segments import Segments
from aligncut_cli.store.kinds.tsne import Tsne
from aligncut_cli.store.nodes import NodeAxes
from aligncut_cli.store.read import Store, collect_controls

Float = NDArray[np.floating]


@dataclass(frozen=True)
class Labelling:
    """One set of labels of a segments store.

    array   : where the labels of each model are
    name    : what the page calls it
    classes : what the labels stand for; none where they are clusters
    """

    segments: Segments
    array: Array
    name: str
    classes: list[str]


@dataclass(frozen=True)
class View:
    """What the page shows as one space.

    source   : the store whose nodes these are; all stores of a view have the same
    eigs     : for similarities; None where only a tsne store was given
    colours  : 3-D tsne store
    plane    : 2-D tsne store, or the 3-D one, whose first two axes are drawn
    segments : stores with labels of these nodes
    """

    name: str
    source: Eigs | Tsne
    eigs: Eigs | None
    colours: Tsne | None
    plane: Tsne | None
    segments: tuple[Segments, ...]

    @classmethod
    def of(cls, stores: Sequence[Store]) -> View:
        """Make a view of stores with the same nodes; the first is an eigs or tsne store, which gives it its name."""
        eigs = next((Eigs(store) for store in stores if store.kind == "eigs"), None)
        maps = [Tsne(store) for store in stores if store.kind == "tsne"]
        flat = [item for item in maps if item.n_dims == 2]
        deep = [item for item in maps if item.n_dims == 3]
        return cls(
            name=short_name(stores[0]),
            source=eigs or maps[0],
            eigs=eigs,
            colours=next(iter(deep), None),
            plane=next(iter([*flat, *deep]), None),
            segments=tuple(Segments(store) for store in stores if store.kind == "segments"),
        )

    @property
    def axes(self) -> NodeAxes:
        """Return the nodes."""
        return self.source.axes

    @property
    def controls(self) -> list[str]:
        """Return what makes this space a control."""
        shown = (self.eigs, self.colours, self.plane, *self.segments)
        return collect_controls(*(item.store for item in shown if item is not None))

    @property
    def n_eig(self) -> int:
        """Return the number of eigenvectors, 0 where they were not given."""
        return 0 if self.eigs is None else self.eigs.n_eig

    @property
    def images_per_block(self) -> int:
        """Return how many images the page loads at once: a chunk of the model with the largest."""
        return max(self.source.images_per_chunk.values())

    @cached_property
    def labellings(self) -> list[Labelling]:
        """Return every set of labels: stores in order, levels of one by name."""
        return [
            Labelling(
                item,
                item.labels[name],
                f"{short_name(item.store)} {name}".removesuffix(" labels"),
                [] if item.clusters else [str(label) for label in item.store.record.get("classes", [])],
            )
            for item in self.segments
            for name in sorted(item.labels)
        ]

    @cached_property
    def corners(self) -> tuple[Float, Float]:
        """Return the lowest and highest place of the map, (2,) each: a square around the fitted nodes."""
        if self.plane is None:
            return np.zeros(2), np.ones(2)
        coords = self.plane.read_sample_coords()[..., :2].reshape(-1, 2)
        centre, half = (coords.max(0) + coords.min(0)) / 2, float((coords.max(0) - coords.min(0)).max()) / 2
        return centre - half, centre + half


def choose_views(stores: Sequence[Store]) -> tuple[list[View], list[str]]:
    """Group eigs, tsne and segments stores by the eigenvectors they were made of.

    returns : the views, in the order of the stores, and why stores were left out of them
    """
    spaces: dict[str, list[Store]] = {}
    notes: list[str] = []
    for store in stores:
        if store.kind == "eigs" and _drawable(store, notes):
            spaces[store.record["digest"]] = [store]
    for store in stores:
        if store.kind not in ("tsne", "segments"):
            continue
        parents = [str(item["digest"]) for item in store.record["inputs"] if item["kind"] == "eigs"]
        space = (parents or [store.record["digest"]])[0]
        if space in spaces:
            spaces[space].append(store)
        elif store.kind == "tsne" and _drawable(store, notes):
            spaces[space] = [store]
    return [View.of(members) for members in spaces.values()], notes


def short_name(store: AnyStore) -> str:
    """Return what a store is called beside a view: its path's last part, as it was given."""
    return store.path.name.removesuffix(".zarr") or str(store.path)


def _drawable(store: Store, notes: list[str]) -> bool:
    """Return whether a store has every patch of its images; says so where it has not."""
    partial = [model.name for model in store.axes.models if not model.whole_grid]
    if partial:
        notes.append(f"{short_name(store)} holds sampled tokens only, so its photos cannot be drawn.")
    return not partial
