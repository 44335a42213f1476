"""Pixels of image files, as they are meant to be seen; imports no torch, so that workers start fast."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from aligncut_cli.errors import BadInput
from aligncut_cli.images import inside

Pixels = npt.NDArray[np.uint8]


class Copy(NamedTuple):
    """A copy wanted of an image: its size in pixels, and how it is resized, by a name of RESAMPLING."""

    height: int
    width: int
    interpolation: str = "bicubic"


RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
"""Interpolations by timm's names; all but nearest with antialiasing."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's readers raise on broken files: they have no common type, and each format has its own ideas.
_BROKEN_FILE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    KeyError,
    IndexError,
    OverflowError,
    RuntimeError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def image_exists(path: Path) -> bool:
    """Return whether a photo is still where a store says it was."""
    return path.is_file() or inside.has_inside(path)


def _open_image(path: Path) -> Image.Image:
    return inside.read_inside(path) if inside.is_inside(path) else Image.open(path)


def check_image(path: Path) -> tuple[int, int]:
    """Read all of an image, coarsely where its format allows, and return (height, width) as it is meant to be seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what it cannot read is an error
        try:
            with _open_image(path) as image:
                width, height = image.size
                # For JPEG, an eighth of the size costs a fraction of the decoding and still reads every byte.
                image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
                _to_rgb(image)
                turned = _orientation(image) in (5, 6, 7, 8)
        except _BROKEN_FILE as error:
            raise _undecodable(path, error) from error
    return (width, height) if turned else (height, width)


def decode_image(path: Path, copies: Sequence[tuple[int, int] | Copy]) -> list[Pixels]:
    """Decode an image as it is meant to be seen, and resize it without cropping.

    copies  : each copy wanted, or its (h, w) in pixels where it is bicubic
    returns : for each, (h, w, 3) uint8 RGB; transparency on white
    """
    wanted = [Copy(*copy) for copy in copies]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _open_image(path) as image:
                seen = _to_rgb(image)
                turn = _TRANSPOSED.get(_orientation(image))
                if turn is not None:
                    seen = seen.transpose(turn)
                return [np.array(seen.resize((w, h), RESAMPLING[how])) for h, w, how in wanted]
        except _BROKEN_FILE as error:
            raise _undecodable(path, error) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    # Pillow reads 16-bit grey PNGs as "I;16", older versions as "I"; elsewhere "I" is 32-bit of any range.
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ValueError("it has 32 bits per pixel, and which value is white is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16-bit grey: 65535 becomes 255
        values = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """How a loaded image has yet to be turned; Pillow turns TIFFs itself while it loads them."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except _BROKEN_FILE:  # unreadable metadata says nothing about the pixels
        return 1


def _undecodable(path: Path, error: Exception) -> BadInput:
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "it is empty" if os.path.getsize(path) == 0 else "it is no image of a format that Pillow reads"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return BadInput(
        f"cannot decode the image {path}: {reason}",
        do="Replace or remove the file, or leave such files out: --skip-bad",
    )
