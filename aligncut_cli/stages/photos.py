"""Photos behind a store's images, for pictures: from where they were, or a grey tile that says they are gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from aligncut_cli.images.decode import decode_image, image_exists
from aligncut_cli.viz.montage import Pixels, missing_photo


class Photos:
    """Reads the photos of a store's `images/`.

    images  : id, path, height and width in node order
    missing : positions of the photos that were asked for and not found
    """

    def __init__(self, images: Mapping[str, NDArray[Any]]) -> None:
        self.images = images
        self.missing: set[int] = set()

    def size(self, image: int) -> tuple[int, int]:
        """Return (height, width) in pixels."""
        return int(self.images["height"][image]), int(self.images["width"][image])

    def tile_size(self, image: int, height: int) -> tuple[int, int]:
        """Return the size of a tile of a given height, in the photo's proportions but never a strip."""
        own = self.size(image)
        return height, max(height // 3, min(3 * height, round(height * own[1] / own[0])))

    def read(self, image: int, size: tuple[int, int]) -> Pixels:
        """Return a photo resized to (height, width)."""
        path = Path(str(self.images["path"][image]))
        if image_exists(path):
            return decode_image(path, [size])[0]
        self.missing.add(image)
        return missing_photo(size)
