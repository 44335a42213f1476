"""Which stores of a report belong together: a view is one space of eigenvectors with its colours, maps and segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aligncut_cli.store.nodes import ModelAxes, NodeAxes
from aligncut_cli.store.read import Store, collect_controls


@dataclass
class View:
    """What the page shows as one space.

    eigs     : for similarities; None where only a tsne store was given
    colours  : 3-D tsne store
    plane    : 2-D tsne store, or the 3-D one, whose first two axes are drawn
    segments : stores with labels of these nodes
    """

    name: str
    source: Store
    eigs: Store | None = None
    colours: Store | None = None
    plane: Store | None = None
    segments: list[Store] = field(default_factory=list)

    @property
    def axes(self) -> NodeAxes:
        """Return the nodes, the same in all stores of a view."""
        return self.source.axes

    @property
    def stores(self) -> list[Store]:
        """Return every store of the view, each once."""
        found = [self.eigs, self.colours, self.plane, *self.segments]
        return [store for i, store in enumerate(found) if store is not None and store not in found[:i]]

    @property
    def controls(self) -> list[str]:
        """Return what makes this space a control."""
        return collect_controls(*self.stores)

    @property
    def group(self) -> str:
        """Return `all`, `model` or `layer`: which nodes share one space."""
        if self.eigs is not None:
            return str(self.eigs.record["params"].get("group", "all"))
        groups = [str(name) for name in self.source.record.get("groups", ["all"])]
        if groups == ["all"]:
            return "all"
        return "model" if set(groups) <= set(self.axes.names) else "layer"

    def label_arrays(self) -> list[tuple[Store, str]]:
        """Return (store, array name) of every set of labels."""
        first = self.axes.names[0]
        return [(s, name) for s in self.segments for name in s.names(first) if name.startswith("labels")]

    def chunk_images(self, model: ModelAxes) -> int:
        """Return how many images one chunk of this model holds."""
        array = "eigvecs" if self.eigs is not None else "coords"
        return int(self.source.array(f"{model.name}/{array}").chunks[1])


def choose_views(stores: Sequence[Store]) -> tuple[list[View], list[str]]:
    """Group eigs, tsne and segments stores by the eigenvectors they were made of.

    returns : the views, in the order of the stores, and why stores were left out of them
    """
    views: dict[str, View] = {}
    notes: list[str] = []
    for store in stores:
        if store.kind == "eigs" and _drawable(store, notes):
            views[store.record["digest"]] = View(_name(store), store, eigs=store)
    for store in stores:
        if store.kind not in ("tsne", "segments"):
            continue
        parents = [str(item["digest"]) for item in store.record["inputs"] if item["kind"] == "eigs"]
        view = next((views[digest] for digest in parents[:1] if digest in views), None)
        if store.kind == "segments":
            if view is not None:
                view.segments.append(store)
            continue
        if view is None and _drawable(store, notes):
            view = views.setdefault(parents[0] if parents else store.record["digest"], View(_name(store), store))
        if view is None:
            continue
        flat = store.record["params"]["dims"] == 2
        if not flat and view.colours is None:
            view.colours = store
        if view.plane is None or (flat and view.plane.record["params"]["dims"] == 3):
            view.plane = store
    return list(views.values()), notes


def _drawable(store: Store, notes: list[str]) -> bool:
    """Return whether a store has every patch of its images; says so where it has not."""
    partial = [model.name for model in store.axes.models if not model.whole_grid]
    if partial:
        notes.append(f"{_name(store)} holds sampled tokens only, so its photos cannot be drawn.")
    return not partial


def _name(store: Store) -> str:
    return store.path.name.removesuffix(".zarr") or str(store.path)
