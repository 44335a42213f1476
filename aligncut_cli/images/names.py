"""Which file names are those of images, and what is left of a name without its suffix."""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

# What is taken from a folder: what Pillow reads of pictures; a file that is named itself may be called anything.
IMAGE_SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
        ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c",
        ".tga", ".icb", ".vda", ".vst", ".pcx", ".qoi", ".sgi", ".ras", ".dds", ".psd",
    )
)  # fmt: skip
HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
"""Read where pillow-heif is installed."""


def strip_image_suffix(name: str) -> str:
    """Drop an image's suffix and nothing else: `a/b.c.png` becomes `a/b.c`, `a/b.c` stays."""
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    known = suffix in IMAGE_SUFFIXES or suffix in HEIF_SUFFIXES
    return str(path.with_suffix("")) if known else name


def is_safe_name(name: str) -> bool:
    """Return whether a name can stand in stores and pages: no control characters, no bytes that are no text."""
    return bool(name) and all(unicodedata.category(letter) not in ("Cc", "Cs") for letter in name)
