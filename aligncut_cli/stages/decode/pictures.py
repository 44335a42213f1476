"""The photos that towers see: found, resized, filtered, and kept in one file for the time of the run."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput
from aligncut_cli.images.band import Band
from aligncut_cli.images.decode import Copy, Pixels, decode_image
from aligncut_cli.stages.photos import Photos


class Pictures:
    """Photos of one source, (image, side, side, rgb) uint8, in a file that is mapped into memory.

    table : `images/` of the images that take part
    side  : in pixels
    band  : spatial frequencies of the photo, before it is resized, that are kept; None for all
    photos: where to look for photos that have moved
    """

    def __init__(
        self, path: Path, table: Mapping[str, NDArray[Any]], *, side: int, band: Band | None, photos: str | None
    ) -> None:
        self.path, self.side, self.band = path, side, band
        self._photos = Photos(table, photos)

    def create(self) -> None:
        """Make the file."""
        self.path.parent.mkdir(exist_ok=True)
        shape = (len(self._photos), self.side, self.side, 3)
        np.lib.format.open_memmap(self.path, mode="w+", dtype=np.uint8, shape=shape).flush()

    def write(self, images: slice, *, threads: int) -> None:
        """Read some photos into the file; when this returns they are on the disk."""
        places = range(images.start, images.stop)
        with ThreadPoolExecutor(threads) as pool:
            found = np.stack(list(pool.map(self._read, places)))
        held = np.lib.format.open_memmap(self.path, mode="r+")
        held[images] = found
        held.flush()

    def _read(self, image: int) -> Pixels:
        path = self._photos.find(image)
        if path is None:
            raise BadInput(
                f"the photo {self._photos.images['path'][image]} is not there any more, and towers need it",
                do="Say where the photos are now: --photos DIR",
            )
        return decode_image(path, [Copy(self.side, self.side)], self.band)[0]

    def open(self) -> Any:
        """Return the array, mapped into memory."""
        return np.lib.format.open_memmap(self.path, mode="r")
