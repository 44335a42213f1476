"""Photos behind a store's images: from where they were or from --photos, or a grey tile where they are gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.images.decode import decode_image, image_exists
from aligncut_cli.viz.montage import Pixels, missing_photo


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

    def say_missing(self, console: Console) -> None:
        """Warn of the photos that were not found, and say what to do."""
        if self.missing:
            console.warn(f"{len(self.missing)} photos were not found where they were; --photos DIR says where they are")
