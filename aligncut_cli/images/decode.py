"""Pixels of image files, as they are meant to be seen; imports no torch, so that workers start fast."""

from __future__ import annotations

import contextlib
import importlib
import os
import stat
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from aligncut_cli.errors import AlignCutError, BadInput
from aligncut_cli.images import inside
from aligncut_cli.images.band import Band, filter_band
from aligncut_cli.images.names import HEIF_SUFFIXES, IMAGE_SUFFIXES

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

COMMON_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "MPO")

_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG = 258
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

LARGE_PIXELS = 1 << 26
"""Larger images are reduced by whole factors before anything else is done to them, so that one takes little memory."""

# Comments and profiles beside the pixels, which Pillow bounds at 1 MB, where some cameras and editors write more.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 1 << 26

with contextlib.suppress(ImportError):
    importlib.import_module("pillow_heif").register_heif_opener()


def readable_suffixes() -> frozenset[str]:
    """Return the suffixes of what is taken from a folder: HEIC only where its reader is installed."""
    return IMAGE_SUFFIXES | HEIF_SUFFIXES if "pillow_heif" in sys.modules else IMAGE_SUFFIXES


def is_picture(path: Path) -> bool:
    """Return whether a file without a suffix begins like a picture of a usual format."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with warnings.catch_warnings(), Image.open(path, formats=COMMON_FORMATS):
            return True
    except Exception:
        return False


def image_exists(path: Path) -> bool:
    """Return whether a photo is still where a store says it was."""
    return path.is_file() or inside.has_inside(path)


def _open_image(path: Path) -> Image.Image:
    if inside.is_inside(path):
        return inside.read_inside(path)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is a folder, a pipe or a device")
    return Image.open(path)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever Pillow raises on it becomes an error that names it: its formats have no common type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what it cannot read is an error
        try:
            with _open_image(path) as image:
                yield image
        except AlignCutError:
            raise
        except Exception as error:
            raise _undecodable(path, error) from error


def check_image(path: Path) -> tuple[int, int]:
    """Read all of an image, coarsely where its format allows, and return (height, width) as it is meant to be seen."""
    return look_at_image(path)[0]


def look_at_image(path: Path) -> tuple[tuple[int, int], bool]:
    """Return what `check_image` does, and whether the file has several frames or pages, of which the first is taken."""
    with _opened(path) as image:
        width, height = image.size
        # For JPEG, an eighth of the size costs a fraction of the decoding and still reads every byte.
        image.draft("RGB", (max(1, width // 8), max(1, height // 8)))
        _to_rgb(image)
        turned = _orientation(image) in (5, 6, 7, 8)
        return ((width, height) if turned else (height, width)), _has_frames(image)


def _has_frames(image: Image.Image) -> bool:
    """Return whether more than one picture is inside; a camera's previews (MPO) do not count."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # a broken second frame says nothing about the first
        return False


def decode_image(path: Path, copies: Sequence[tuple[int, int] | Copy], band: Band | None = None) -> list[Pixels]:
    """Decode an image as it is meant to be seen, and resize it without cropping.

    copies  : each copy wanted, or its (h, w) in pixels where it is bicubic
    band    : spatial frequencies that are kept, in cycles per pixel of the photo; None is all
    returns : for each, (h, w, 3) uint8 RGB; transparency on white
    """
    wanted = [Copy(*copy) for copy in copies]
    with _opened(path) as image:
        largest = max(max(copy.height, copy.width) for copy in wanted)
        whole = image.width
        if image.width * image.height > LARGE_PIXELS:
            image.draft(None, (2 * largest, 2 * largest))
        seen = _to_rgb(image, side=largest)
        if band is not None:
            seen = Image.fromarray(filter_band(np.asarray(seen), band.of_reduced(whole / seen.width)))
        turn = _TRANSPOSED.get(_orientation(image))
        if turn is not None:
            seen = seen.transpose(turn)
        return [np.array(seen.resize((w, h), RESAMPLING[how])) for h, w, how in wanted]


def _to_rgb(image: Image.Image, *, side: int = 1) -> Image.Image:
    """Load an image and return it in 8-bit RGB; one of more than LARGE_PIXELS with sides of at least twice `side`."""
    image.load()
    # "I" is 16-bit grey in PNG and PPM, elsewhere 32-bit of any range; "F" has no range at all.
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError("it has 32 bits per pixel, and which value is white is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64) / (_white(image) / 255)
        return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
    transparent = image.has_transparency_data
    factor = min(image.size) // (2 * side) if image.width * image.height > LARGE_PIXELS else 1
    seen = image
    if factor > 1:
        if image.mode not in ("L", "RGB", "RGBA", "LA", "CMYK", "YCbCr"):
            seen = image.convert("RGBA" if transparent else "RGB")
        seen = seen.reduce(factor)
    if transparent:
        layer = seen.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return seen.convert("RGB")


def _white(image: Image.Image) -> int:
    """Return the largest value of a grey image of more than 8 bits: TIFF stores 12 bits as they are."""
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE_TAG, (16,))
    return 4095 if tuple(bits) == (12,) else 65535


def _orientation(image: Image.Image) -> int:
    """How a loaded image has yet to be turned; Pillow turns TIFFs itself while it loads them."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # unreadable metadata says nothing about the pixels
        return 1


def _undecodable(path: Path, error: Exception) -> BadInput:
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "it is empty" if os.path.getsize(path) == 0 else "it is no image of a format that Pillow reads"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return BadInput(
        f"cannot decode the image {path}: {reason}",
        do="Put the photo back as it was, or replace it.",
    )
