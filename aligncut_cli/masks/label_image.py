"""Read one image file whose pixel values are labels, not colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from aligncut_cli.errors import BadInput
from aligncut_cli.images.guard import reading, require_file, require_memory

DEEPEST = 65535
"""The highest value a mask can have: 16 bits."""
LABEL_MODES = ("1", "P", "L", "I", "I;16", "I;16B")


def read_label_image(path: Path) -> NDArray[np.int32]:
    """Read the raw values of a palette, grey or 1-bit image; a palette's colours are not looked up.

    returns : (h, w) values >= 0, turned upright if the file has an EXIF orientation; a 1-bit image gives 0 and 1
    """
    require_file(path, do="Check the masks.")
    with (
        reading(path, "a mask", do="Save it again as a PNG of class indices."),
        Image.open(path) as image,
    ):
        require_memory(path, 16 * image.width * image.height)
        values = _to_values(ImageOps.exif_transpose(image), path)
    if values.max(initial=0) > DEEPEST or values.min(initial=0) < 0:
        raise BadInput(
            f"The mask {path} has values from {values.min()} to {values.max()}, which are no class indices.",
            do="Save it with 8 bits: 0 = background, 1, 2, ... = classes, 255 = ignore.",
        )
    return values.astype(np.int32)


def _to_values(image: Image.Image, path: Path) -> NDArray[np.generic]:
    if image.mode in LABEL_MODES:
        return np.asarray(image)
    if image.mode in ("LA", "RGB", "RGBA"):
        channels = np.asarray(image)
        colours = channels[..., :1] if image.mode == "LA" else channels[..., :3]
        opaque = image.mode == "RGB" or bool((channels[..., -1] == 255).all())
        if opaque and bool((colours == colours[..., :1]).all()):
            return np.ascontiguousarray(colours[..., 0])
    raise BadInput(
        f"The mask {path} is a colour picture (mode {image.mode}), not a map of class indices.",
        why="Which colour is which class cannot be told from the file.",
        do="Save it as a palette or grey PNG whose values are 0 = background, 1, 2, ... and 255 = ignore.",
    )
