"""Patches of slots: centres of concepts among them, their features without the class token, and what they look like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.maths.concepts import choose_centres, choose_radius
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.sample import choose_nodes, gather_rows
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.kinds.tsne import Tsne
from aligncut_cli.store.nodes import Block, ModelAxes, Slot
from aligncut_cli.viz.canvas import Pixels
from aligncut_cli.viz.concept_plots import mark_patch

CELL = 24
"""Pixels of a patch's side in a contact sheet; the patches around it are shown with it."""


@dataclass(frozen=True)
class Centres:
    """Concepts as balls on a map.

    places : (concept, dim)
    radius : of every ball, in the map's unit
    """

    places: NDArray[np.float32]
    radius: float


def place_concepts(
    source: Tsne,
    slots: Sequence[Slot],
    *,
    n_concepts: int,
    n_sample: int,
    radius: float | None,
    sparse: float,
    seed: int,
    console: Console,
    label: str,
) -> Centres:
    """Choose concepts among a sample of the patches of some slots of one map, in dense places, and their radius.

    n_sample : tokens to draw, class tokens included, which are then left out
    radius   : None chooses it by the rule of `choose_radius`
    sparse   : share of the patches, those in the sparsest places, that cannot become centres
    """
    axes = source.axes
    nodes = choose_nodes(source, slots, min(n_sample, axes.n_group_nodes(slots)), seed=seed, purpose="concepts")
    coords = gather_rows(source, slots, nodes, console=console, label=label)
    is_patch = [axes.locate(nodes, slot)[:, 1] >= int(axes[slot.model].class_token) for slot in slots]
    places, reach = choose_centres(coords[np.concatenate(is_patch)], n_concepts=n_concepts, sparse=sparse)
    return Centres(places.astype(np.float32), choose_radius(places, reach) if radius is None else radius)


def load_patches(space: FeatureSpace, block: Block) -> NDArray[np.float16]:
    """Read a block as stored: (image, patch, channel); checks that it is finite. Safe in a thread."""
    model, rows = space.axes[block.slot.model], space.load(block)
    return rows.reshape(-1, model.n_tokens, rows.shape[1])[:, int(model.class_token) :]


def cut_patch(photos: Photos, image: int, row: int, column: int, model: ModelAxes) -> Pixels:
    """Return a patch with what lies around it, framed."""
    height, width = model.grid
    photo = photos.read(image, (height * CELL, width * CELL))
    return mark_patch(photo, row, column, cell=CELL)
