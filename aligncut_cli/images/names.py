"""Which file names are those of images, and what is left of a name without its suffix."""

from __future__ import annotations

from pathlib import PurePosixPath

# What is taken from a folder; a file that is named itself may be called anything.
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"))


def strip_image_suffix(name: str) -> str:
    """Drop an image's suffix and nothing else: `a/b.c.png` becomes `a/b.c`, `a/b.c` stays."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else name
