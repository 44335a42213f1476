"""Photos inside ImageNet-Segmentation's .mat file, each with a path of its own: `gtsegs_ijcv.mat/ID`."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from aligncut_cli.masks.imagenet_seg import ImageNetSegMasks

SUFFIX = ".mat"


def is_inside(path: Path) -> bool:
    """Return whether a path is that of a photo in a file, not of a file."""
    return path.parent.suffix.lower() == SUFFIX and path.parent.is_file()


def list_inside(path: Path) -> list[Path]:
    """Return the path of every photo in a file, in its order; names are the ids of its masks."""
    return [path / image_id for image_id in _open(path).ids]


def read_inside(path: Path) -> Image.Image:
    """Read one photo as an RGB picture."""
    return Image.fromarray(_open(path.parent).read_image(path.name))


def has_inside(path: Path) -> bool:
    """Return whether a photo is there."""
    return is_inside(path) and _open(path.parent).find(path.name) is not None


def hash_inside(path: Path) -> str:
    """SHA-256 of a photo's size and pixels."""
    pixels = _open(path.parent).read_image(path.name)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


@lru_cache(maxsize=4)
def _open(path: Path) -> ImageNetSegMasks:
    """Keep a file open: each process has its own."""
    from aligncut_cli.masks.imagenet_seg import ImageNetSegMasks

    return ImageNetSegMasks(path, classes=None)
