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
from aligncut_cli.viz.canvas import Pixels
from aligncut_cli.viz.concept_plots import heat_over_photo, heat_scale
from aligncut_cli.viz.sheet import Row, Scale, draw_sheet
from aligncut_cli.viz.style import FigureStyle

TILE = 224
BEYOND = 0.005
"""Share of the patches shown whose similarity lies beyond the scale."""


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

    def write(self, folder: Path, text: str, place: TokenPlace, *, style: FigureStyle, controls: Sequence[str]) -> None:
        """Write similarity-TOKEN.npy, .csv and a sheet.

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
        reach = self._reach(similar, place)
        sheet = draw_sheet(
            [Row("", self._tiles(similar / reach, place))],
            title=f"cosine similarity to {text} at {style.slot(str(self.slot))}, in {where}",
            style=style,
            controls=controls,
            scale=Scale(heat_scale(), (f"{-reach:.2f}", "0", f"{reach:.2f}"), "cosine; beyond the ends as at the ends"),
        )
        sheet.save(style.file(folder, name))

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

    def _reach(self, similar: NDArray[np.float32], place: TokenPlace) -> float:
        """Return what the colours reach to: all but the highest few cosines that are shown, without the token's own."""
        shown = np.abs(similar[self.shown(place)])
        shown[0, place.row, place.column] = np.nan
        return max(0.01, float(np.nanquantile(shown, 1 - BEYOND)))

    def _tiles(self, similar: NDArray[np.float32], place: TokenPlace) -> list[tuple[str, Pixels]]:
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
            tiles.append((self.photos.id(image), tile))
        return tiles


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
