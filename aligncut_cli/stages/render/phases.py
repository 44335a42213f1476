"""The computation of `render`: colours read block by block, a montage drawn for each image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.images.decode import decode_image, image_exists
from aligncut_cli.params import RenderParams
from aligncut_cli.store.folder import file_for_image
from aligncut_cli.store.nodes import image_slices, require_tokens
from aligncut_cli.store.read import Store, collect_controls
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.viz.montage import Pixels, draw_montage, missing_photo, stack_pictures

PROCESS_BYTES = 300_000_000
OVERVIEW_IMAGES = 6


class RenderPhases:
    """One run of the stage: blocks of images, each a chunk of colours."""

    def __init__(self, work: Work, source: Store, params: RenderParams, console: Console) -> None:
        self.work, self.source, self.params, self.console = work, source, params, console
        self.axes = source.axes
        self.images = source.images()
        self.controls = collect_controls(source)
        self.missing = 0

    def run(self) -> Outcome:
        """Plan, draw every block that is not done, and finish."""
        if self.source.record["params"]["dims"] != 3:
            raise BadInput(
                f"{self.source.path} is 2-D, and colours need three dimensions", do="Make it again with --dims 3."
            )
        require_tokens(self.axes, self.source.path)
        n_images = min(self.params.images or len(self.images["id"]), len(self.images["id"]))
        per_block = max(int(self.source.array(f"{name}/rgb").chunks[1]) for name in self.axes.names)
        blocks = list(image_slices(n_images, per_block))
        tiles = 1 + max(len(model.layers) for model in self.axes.models)
        pixels = self.params.tile**2 * 3 // 2 * tiles * len(self.axes.models) * 3
        plan = Plan(
            phases={"blocks": len(blocks), "overview": 1},
            memory=PROCESS_BYTES + per_block * self.axes.n_nodes // len(self.images["id"]) * 3 + 20 * pixels,
            disk=n_images * pixels // 4,
            notes={"images": n_images},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        self.work.staging.mkdir(exist_ok=True)
        with self.console.progress("render", n_images, unit="images") as progress:
            for index, images in enumerate(blocks):
                if not self.work.done("blocks", index):
                    colours = self._read_colours(images)
                    for image in range(images.start, images.stop):
                        picture = self._draw(image, {k: v[:, image - images.start] for k, v in colours.items()})
                        picture.save(file_for_image(self.work.staging, str(self.images["id"][image]), ".png"))
                        progress.advance()
                    self.work.mark("blocks", index)
                else:
                    progress.advance(images.stop - images.start)
        if not self.work.done("overview"):
            first = [str(name) for name in self.images["id"][: min(n_images, OVERVIEW_IMAGES)]]
            pictures = [Image.open(file_for_image(self.work.staging, name, ".png")) for name in first]
            stack_pictures(pictures).save(self.work.staging / "overview.png")
            self.work.mark("overview")
        if self.missing:
            self.console.warn(f"{self.missing} photos were not found where they were; --photos DIR says where they are")
        return self.work.finish(models=self.axes.names, summary={"images": n_images}, controls=self.controls)

    def _read_colours(self, images: slice) -> dict[str, NDArray[np.uint8]]:
        """Return for each model (layer, image, h, w, rgb) of a block, without the class token."""
        colours = {}
        for model in self.axes.models:
            tokens = self.source.read(f"{model.name}/rgb", (slice(None), images))
            patches = tokens[:, :, int(model.class_token) :]
            colours[model.name] = patches.reshape(*patches.shape[:2], *model.grid, 3)
        return colours

    def _draw(self, image: int, colours: dict[str, NDArray[np.uint8]]) -> Image.Image:
        height, width = int(self.images["height"][image]), int(self.images["width"][image])
        size = (self.params.tile, max(16, min(3 * self.params.tile, round(self.params.tile * width / height))))
        grids = {model.name: list(zip(model.layers, colours[model.name], strict=True)) for model in self.axes.models}
        return draw_montage(
            self._photo(image, size),
            grids,
            title=str(self.images["id"][image]),
            controls=self.controls,
        )

    def _photo(self, image: int, size: tuple[int, int]) -> Pixels:
        """Return the photo at the tile's size, looked for where it was and in --photos."""
        path = Path(str(self.images["path"][image]))
        places = [path]
        if self.params.photos is not None:
            folder = Path(self.params.photos)
            places = [folder / f"{self.images['id'][image]}{path.suffix}", folder / path.name, path]
        found = next((place for place in places if image_exists(place)), None)
        if found is None:
            self.missing += 1
            return missing_photo(size)
        return decode_image(found, [size])[0]
