"""Similarity of every patch of a slot to one: as an array, a table by image, and pictures of the first images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.maths.activations import compare_to_reference
from aligncut_cli.maths.grid import spread_tokens
from aligncut_cli.params import ActivationsParams
from aligncut_cli.stages.patches import load_patches
from aligncut_cli.stages.photos import Photos
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.nodes import Block, Slot, TokenPlace, image_slices
from aligncut_cli.store.phases import load_ahead
from aligncut_cli.viz.concept_plots import heat_over_photo
from aligncut_cli.viz.sheet import Row, draw_sheet

TILE = 112
TILES_PER_ROW = 8


class TokenSimilarity:
    """Compares the patches of one slot to tokens of it."""

    def __init__(
        self,
        space: FeatureSpace,
        alignment: Alignment,
        slot: Slot,
        photos: Photos,
        params: ActivationsParams,
        console: Console,
    ) -> None:
        self.space, self.alignment, self.slot = space, alignment, slot
        self.photos, self.params, self.console = photos, params, console
        self.model = space.axes[slot.model]

    def write(self, folder: Path, text: str, place: TokenPlace, *, controls: Sequence[str]) -> None:
        """Write similarity-TOKEN.npy, .csv and .png.

        text : how the token is named
        """
        name = f"similarity-{_file_name(text)}"
        similar = self._compare(folder / f"{name}.npy", _file_name(text), place)
        table = [
            [text, str(self.slot), self.photos.id(image), float(part.mean()), float(part.max())]
            for image, part in enumerate(similar)
        ]
        header = ["token", "slot", "image", "mean similarity", "highest similarity"]
        write_csv(folder / f"{name}.csv", header, table, controls=controls)
        where = "the brain's space" if self.params.space == "brain" else "the universal space"
        title = f"cosine similarity to {text} at {self.slot}, in {where}: red 1, blue -1"
        draw_sheet(self._rows(similar, place), title=title, controls=controls).save(folder / f"{name}.png")

    def shown(self, place: TokenPlace) -> list[int]:
        """Return the images that are drawn beside a token: its own, then the first others."""
        others = [image for image in range(self.model.n_images) if image != place.image]
        return [place.image, *others[: self.params.pictures]]

    def _compare(self, path: Path, label: str, place: TokenPlace) -> NDArray[np.float32]:
        """Return cosines (image, row, column), which are written to a file as they are computed."""
        model, slot = self.model, self.slot
        gram = None
        if self.params.space == "brain":
            beta = self.alignment.read_readout().astype(np.float64)
            gram = beta @ beta.T
        one = self.space.load(Block(slot, slice(place.image, place.image + 1)))[[place.token(model)]]
        reference = self._map(one)[0]
        blocks = [Block(slot, part) for part in image_slices(model.n_images, self.space.images_per_read()[model.name])]
        shape = (model.n_images, *model.grid)
        similar = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        with self.console.progress(f"compare {label}", model.n_images, unit="images") as progress:
            for block, patches in load_ahead(blocks, lambda b: load_patches(self.space, b)):
                mapped = self._map(patches.reshape(-1, patches.shape[-1]))
                values = compare_to_reference(mapped, reference, readout_gram=gram)
                similar[block.images] = values.reshape(-1, *model.grid)
                progress.advance(len(patches))
        similar.flush()
        return similar

    def _map(self, rows: NDArray[np.float16]) -> NDArray[Any]:
        return self.space.map_rows(rows, self.slot).cpu().numpy()

    def _rows(self, similar: NDArray[np.float32], place: TokenPlace) -> list[Row]:
        """Return tiles of the token's own image, with and without similarity, and of the others."""
        grid, tiles = self.model.grid, []
        for image in self.shown(place):
            size = self.photos.tile_size(image, TILE)
            photo = self.photos.read(image, size)
            heat = np.asarray(spread_tokens(similar[image].ravel(), grid, size), np.float64)
            tile = heat_over_photo(photo, heat)
            if image == place.image:
                tile = _frame(tile, grid, place)
                tiles.append(("the token", _frame(photo, grid, place)))
            tiles.append((self.photos.id(image)[-24:], tile))
        return [Row("", tiles[start : start + TILES_PER_ROW]) for start in range(0, len(tiles), TILES_PER_ROW)]


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.,-]+", "_", text)


def _frame(tile: NDArray[np.uint8], grid: tuple[int, ...], place: TokenPlace) -> NDArray[np.uint8]:
    """Frame one patch in yellow."""

    def scale(at: int, count: int, pixels: int) -> int:
        return min(round(at * pixels / count), pixels - 1)

    top, bottom = (scale(place.row + i, grid[0], tile.shape[0]) for i in (0, 1))
    left, right = (scale(place.column + i, grid[1], tile.shape[1]) for i in (0, 1))
    framed = tile.copy()
    framed[[top, bottom], left : right + 1] = framed[top : bottom + 1, [left, right]] = (255, 220, 0)
    return framed
