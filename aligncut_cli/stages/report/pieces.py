"""Writes what the page loads of some images of one model: eigenvectors, colours, labels, and places on the map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.stages.report.files import PageFolder
from aligncut_cli.stages.report.layout import Piece
from aligncut_cli.stages.report.views import View
from aligncut_cli.store.nodes import ModelAxes
from aligncut_cli.viz import page


def write_piece(folder: PageFolder, view: View, piece: Piece) -> None:
    """Write eigenvectors, colours and labels per layer, and places on the map for all layers together."""
    model, images = view.axes.models[piece.model], piece.images
    if view.eigs is not None:
        rows = page.quantize_rows(view.eigs.patches(model.name, images))
        for layer, values in enumerate(rows):
            folder.write_script(f"e-{piece.view}-{piece.model}-{layer}-{piece.block}", page.pack(values))
    sheets: dict[str, NDArray[np.uint8]] = {}
    if view.colours is not None:
        sheets["c"] = view.colours.read_colours(model.name, images)
    for index, labelling in enumerate(view.labellings):
        labels = labelling.segments.patches(model.name, images, array=labelling.array.at(model.name))
        sheets[f"s{index}"] = page.paint_labels(labels)
    for kind, colours in sheets.items():
        for layer, rgb in enumerate(colours):
            name = f"data/{kind}-{piece.view}-{piece.model}-{layer}-{piece.block}.png"
            folder.write(name, _draw_sheet(rgb, model, view.images_per_block))
    if view.plane is not None:
        places = page.quantize_places(view.plane.patches(model.name, images)[..., :2], *view.corners)
        folder.write_script(f"m-{piece.view}-{piece.model}-{piece.block}", page.pack(places))


def _draw_sheet(rgb: NDArray[np.uint8], model: ModelAxes, images_per_block: int) -> bytes:
    """Return a PNG whose pixels are patches, image beside image; colours are (image, patch, rgb)."""
    tiles = rgb.reshape(len(rgb), *model.grid, 3)
    return page.png_bytes(page.make_sheet(tiles, page.sheet_columns(images_per_block)))
