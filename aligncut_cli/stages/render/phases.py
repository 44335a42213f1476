"""The computation of `render`: colours read block by block, a montage drawn for each image."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.params import RenderParams
from aligncut_cli.stages.comparability import describe_colours
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.render.section import OVERVIEW
from aligncut_cli.stages.style import read_style
from aligncut_cli.store.folder import file_for_image
from aligncut_cli.store.kinds.tsne import Tsne
from aligncut_cli.store.nodes import image_slices, require_tokens
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.canvas import Canvas, stack_canvases
from aligncut_cli.viz.montage import draw_montage

PROCESS_BYTES = 300_000_000
OVERVIEW_IMAGES = 6
NARROWEST_TILE = 16  # pixels


def name_montages(ids: Sequence[str], format: str) -> list[str]:
    """Return a name for each image's montage: its id, with `_` at the end where that keeps files apart.

    No montage takes the overview's place, that of another on a file system that takes letters and accents as alike, or
    that of a folder which other ids lie in.
    """

    def key(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    folders = {key(parent.as_posix()) for name in ids for parent in PurePosixPath(name).parents}
    ending = f".{format}"
    taken = {folder.removesuffix(ending) for folder in folders if folder.endswith(ending)}
    names = []
    for image_id in ids:
        name = image_id
        while key(name) in taken or key(name).rpartition("/")[2] == OVERVIEW:
            name += "_"
        taken.add(key(name))
        names.append(name)
    return names


class RenderStage:
    """One run of the stage: blocks of images, each a chunk of colours."""

    def __init__(self, work: Work, source: Store, params: RenderParams, console: Console) -> None:
        self.work, self.params, self.console = work, params, console
        self.source, self.controls = Tsne(source), collect_controls(source)
        self.axes, self.meaning = self.source.axes, describe_colours(self.source)
        if self.source.n_dims != 3:
            raise BadInput(
                f"{source.path} is 2-D, and colours need three dimensions", do="Make it again with --dims 3."
            )
        require_tokens(self.axes, source.path)
        self.photos = Photos(self.source.images(), params.photos)
        self.style = read_style(params, self.axes.names)
        self.names = name_montages([self.photos.id(image) for image in range(len(self.photos))], params.format)
        self.n_images = min(params.images or len(self.photos), len(self.photos))
        self.images_per_block = max(self.source.images_per_chunk.values())
        self.blocks = list(image_slices(self.n_images, self.images_per_block))

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        return [
            Phase(
                "blocks",
                self.blocks,
                self._draw_block,
                self._read_colours,
                unit="images",
                size=lambda images: images.stop - images.start,
                label="render",
                parallel=True,
            ),
            single_step("overview", self._draw_overview),
        ]

    def plan(self) -> Plan:
        """Return what a block of colours and its montages need."""
        tiles = 1 + max(len(model.layers) for model in self.axes.models)
        pixels = self.params.tile**2 * 3 // 2 * tiles * len(self.axes.models) * 3
        colours = self.images_per_block * self.axes.n_nodes // len(self.photos) * 3
        return Plan(
            memory=PROCESS_BYTES + colours + 20 * pixels,
            disk=self.n_images * pixels // 4,
            notes={"images": self.n_images},
        )

    def _read_colours(self, images: slice) -> dict[str, NDArray[np.uint8]]:
        """Return for each model (layer, image, h, w, rgb) of a block."""
        colours = {}
        for model in self.axes.models:
            patches = self.source.read_colours(model.name, images)
            colours[model.name] = patches.reshape(*patches.shape[:2], *model.grid, 3)
        return colours

    def _draw_block(self, index: int, images: slice, colours: Mapping[str, NDArray[np.uint8]]) -> None:
        for image in range(images.start, images.stop):
            picture = self._draw(image, {name: rgb[:, image - images.start] for name, rgb in colours.items()})
            picture.save(self._file(image))

    def _draw(self, image: int, colours: Mapping[str, NDArray[np.uint8]]) -> Canvas:
        """Draw the montage of one image; colours are (layer, h, w, rgb) for each model."""
        size = self.photos.tile_size(image, self.params.tile, narrowest=NARROWEST_TILE)
        grids = {model.name: list(zip(model.layers, colours[model.name], strict=True)) for model in self.axes.models}
        photo = self.photos.read(image, size)
        title, caption = self.photos.id(image), self.meaning
        return draw_montage(photo, grids, title=title, caption=caption, style=self.style, controls=self.controls)

    def _draw_overview(self) -> None:
        shown = slice(0, min(self.n_images, OVERVIEW_IMAGES))
        colours = self._read_colours(shown)
        pictures = [
            self._draw(image, {name: rgb[:, image] for name, rgb in colours.items()}) for image in range(shown.stop)
        ]
        stack_canvases(pictures).save(self.style.file(self.work.staging, OVERVIEW))

    def _file(self, image: int) -> Path:
        return file_for_image(self.work.staging, self.names[image], f".{self.style.format}")

    def finish(self) -> Outcome:
        """Say which photos were missing, and give the folder its name."""
        self.photos.look_for(range(self.n_images))
        self.photos.say_missing(self.console)
        summary = {"images": self.n_images, "colours": self.meaning}
        return self.work.finish(models=self.axes.names, summary=summary, said=[self.meaning], controls=self.controls)
