"""Photos behind a store's images: from where they were or from --photos, or a grey tile where they are gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.images.decode import decode_image, image_exists
from aligncut_cli.viz.canvas import Pixels
from aligncut_cli.viz.montage import missing_photo


class Photos:
    """Finds and reads the photos of a store's `images/`.

    images  : id, path, height and width in node order
    folder  : --photos, where to look first for photos that have moved
    missing : positions of the photos that were asked for and not found
    """

    def __init__(self, images: Mapping[str, NDArray[Any]], folder: str | Path | None = None) -> None:
        self.images, self.folder = images, None if folder is None else Path(folder)
        self.missing: set[int] = set()

    def __len__(self) -> int:
        return len(self.images["id"])

    def id(self, image: int) -> str:
        """Return what an image is called."""
        return str(self.images["id"][image])

    def size(self, image: int) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return int(self.images["height"][image]), int(self.images["width"][image])

    def tile_size(self, image: int, height: int, *, narrowest: int | None = None) -> tuple[int, int]:
        """Return the size of a tile of a given height, in the photo's proportions but never a strip.

        narrowest : least width in pixels; a third of the height if not given
        """
        own = self.size(image)
        least = height // 3 if narrowest is None else narrowest
        return height, max(least, min(3 * height, round(height * own[1] / own[0])))

    def fitted_size(self, image: int, longer: int) -> tuple[int, int]:
        """Return (height, width) in the photo's proportions, given the longer side in pixels."""
        height, width = self.size(image)
        scale = longer / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def find(self, image: int) -> Path | None:
        """Return where a photo is; a name that would lead out of --photos is not looked up there."""
        path = Path(str(self.images["path"][image]))
        places = [path]
        if self.folder is not None:
            own = PurePosixPath(self.id(image))
            inside = not own.is_absolute() and ".." not in own.parts
            named = [self.folder / f"{own}{path.suffix}"] if inside else []
            places = [*named, self.folder / path.name, path]
        return next((place for place in places if image_exists(place)), None)

    def read_sizes(self, image: int, sizes: list[tuple[int, int]]) -> list[Pixels]:
        """Return a photo in several sizes (height, width), decoded once."""
        found = self.find(image)
        if found is not None:
            return decode_image(found, sizes)
        self.missing.add(image)
        return [missing_photo(size) for size in sizes]

    def read(self, image: int, size: tuple[int, int]) -> Pixels:
        """Return a photo resized to (height, width)."""
        return self.read_sizes(image, [size])[0]

    def look_for(self, images: Iterable[int]) -> None:
        """Find out which photos are missing without reading any, for a run that may have drawn some of them before."""
        self.missing.update(image for image in images if self.find(image) is None)

    def say_missing(self, console: Console) -> None:
        """Warn of the photos that were not found, and say what to do."""
        if self.missing:
            console.warn(f"{len(self.missing)} photos were not found where they were; --photos DIR says where they are")


def list_once(parts: Sequence[Mapping[str, NDArray[Any]]]) -> tuple[dict[str, NDArray[Any]], list[list[int]]]:
    """Join the `images/` of several stores; a photo that several have, by id and path, is listed once.

    returns : `images/` of all photos, and for every store the position there of each of its images
    """
    known: dict[tuple[str, str], int] = {}
    positions: list[list[int]] = []
    joined: dict[str, list[NDArray[Any]]] = {"id": [], "path": [], "height": [], "width": []}
    for images in parts:
        keys = [(str(name), str(path)) for name, path in zip(images["id"], images["path"], strict=True)]
        new = []
        for i, key in enumerate(keys):
            if key not in known:
                known[key] = len(known)
                new.append(i)
        positions.append([known[key] for key in keys])
        for name, values in joined.items():
            values.append(images[name][new])
    return {name: np.concatenate(values) if values else np.empty(0) for name, values in joined.items()}, positions
