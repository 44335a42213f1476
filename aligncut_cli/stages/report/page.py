"""Writes the page itself: what it says of every view, the points of its maps, and the stages' sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aligncut_cli
from aligncut_cli.params import ReportParams
from aligncut_cli.stages.align.section import is_synthetic
from aligncut_cli.stages.blocks import name_of
from aligncut_cli.stages.comparability import describe_colours
from aligncut_cli.stages.report.files import PageFolder
from aligncut_cli.stages.report.layout import THUMBS_PER_SHEET, Layout
from aligncut_cli.stages.report.sections import describe_stores, make_sections
from aligncut_cli.stages.report.views import View
from aligncut_cli.store.kinds.tsne import Tsne
from aligncut_cli.store.nodes import Slot, image_slices
from aligncut_cli.store.read import Store
from aligncut_cli.viz import page


def write_page(folder: PageFolder, layout: Layout, stores: Sequence[Store], params: ReportParams) -> None:
    """Write the page, its scripts, the points of its maps, and `main`, which says what there is to load."""
    folder.create()
    for name, content in page.page_files():
        folder.write(name, content)
    for index, view in enumerate(layout.views):
        if view.plane is not None:
            points = _map_points(view, view.plane, len(layout.photos_of[index]), params)
            folder.write_script(f"points-{index}", points)
    photos = layout.photos
    synthetic = [
        f"The brain responses of {name_of(store)} are synthetic, not measured."
        for store in stores
        if is_synthetic(store)
    ]
    main = {
        "title": params.title,
        "version": aligncut_cli.__version__,
        "photoSize": params.photo_size,
        "sheet": {
            "tile": params.thumb_size,
            "columns": page.sheet_columns(THUMBS_PER_SHEET),
            "per": THUMBS_PER_SHEET,
        },
        "photos": [[photos.id(i), *photos.size(i), photos.find(i) is not None] for i in range(len(photos))],
        "views": [_describe_view(view, images) for view, images in zip(layout.views, layout.photos_of, strict=True)],
        "sections": make_sections(stores, folder.path),
        "stores": describe_stores(stores),
        "notes": layout.notes + synthetic,
        "labelColours": list(page.LABEL_COLOURS),
    }
    folder.write_script("main", main)


def _describe_view(view: View, images: list[int]) -> dict[str, Any]:
    """Return what the page has to know of a view; `images` are positions among all photos."""
    return {
        "name": view.name,
        "group": view.source.grouping,
        "controls": view.controls,
        "images": images,
        "perBlock": view.images_per_block,
        "columns": page.sheet_columns(view.images_per_block),
        "models": [
            {"name": model.name, "layers": list(model.layers), "grid": list(model.grid)} for model in view.axes.models
        ],
        "nEig": view.n_eig,
        "colours": view.colours is not None,
        "meaning": describe_colours(view.source),
        "plane": None if view.plane is None else view.plane.n_dims,
        "labels": [{"name": item.name, "classes": item.classes} for item in view.labellings],
    }


def _map_points(view: View, plane: Tsne, n_images: int, params: ReportParams) -> dict[str, str]:
    """Draw nodes at random, the same share of every slot: place, colour, and which patch each is."""
    rng = np.random.default_rng(params.seed)
    slots = view.axes.slots
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in ("place", "colour", "slot", "image", "patch")}
    for position, slot in enumerate(slots):
        grid = view.axes[slot.model].grid
        n_patches = grid[0] * grid[1]
        share = params.map_points * (position + 1) // len(slots) - params.map_points * position // len(slots)
        chosen = np.sort(rng.choice(n_images * n_patches, min(share, n_images * n_patches), replace=False))
        image, patch = np.divmod(chosen, n_patches)
        coords, colour = _look_up(view, plane, slot, image, patch)
        columns["place"].append(page.quantize_places(coords, *view.corners))
        columns["colour"].append(colour)
        columns["slot"].append(np.full(len(chosen), position, np.uint16))
        columns["image"].append(image.astype(np.uint32))
        columns["patch"].append(patch.astype(np.uint16))
    return {name: page.pack(np.concatenate(parts)) for name, parts in columns.items()}


def _look_up(
    view: View, plane: Tsne, slot: Slot, image: NDArray[np.int64], patch: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return where some patches of a slot stand, (n, 2), and their colours, (n, 3), black where there are none.

    image, patch : (n,), images ascending
    """
    coords, colour = np.empty((len(image), 2), np.float32), np.zeros((len(image), 3), np.uint8)
    blocks = image_slices(int(image[-1]) + 1, view.images_per_block) if len(image) else ()
    for images in blocks:
        here = (image >= images.start) & (image < images.stop)
        at = image[here] - images.start, patch[here]
        coords[here] = plane.patches(slot.model, images, layers=slot.position)[at][:, :2]
        if view.colours is not None:
            colour[here] = view.colours.read_colours(slot.model, images, layers=slot.position)[at]
    return coords, colour
