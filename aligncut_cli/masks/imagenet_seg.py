"""Masks inside ImageNet-Segmentation's MATLAB file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aligncut_cli.errors import UsageError
from aligncut_cli.images.inside import ImageNetSegFile
from aligncut_cli.masks.base import IGNORE, Mask, MaskSet
from aligncut_cli.masks.folder import BINARY_CLASSES, read_class_names
from aligncut_cli.masks.values import IGNORE_VALUE


class ImageNetSegMasks(MaskSet):
    """The first annotation of every photo: 0 background, 1 object, 255 ignored."""

    holds = "a .mat file"

    def __init__(self, path: Path, *, classes: Path | None, threshold: int | None = None, split: str = "") -> None:
        if threshold is not None:
            raise UsageError("--threshold is for folders of PNG masks; this file's are 0 and 1", do="Leave it out.")
        self.path = path
        self._file = ImageNetSegFile(path)
        self._classes = BINARY_CLASSES if classes is None else read_class_names(classes)
        self.sources = [path] if classes is None else [path, classes]
        self.ids = self._file.ids

    @classmethod
    def fits(cls, path: Path) -> bool:
        """Return whether a path could be one of this format."""
        return path.is_file()

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Return whether what is there can be nothing else."""
        return path.is_file() and path.suffix.lower() == ".mat"

    @property
    def classes(self) -> tuple[str, ...]:
        """Background and foreground."""
        return self._classes

    def find(self, image_id: str) -> str | None:
        """Look an image up; ids are the file's own."""
        return self._file.find(image_id)

    def _load(self, mask_id: str) -> Mask:
        labels = self._file.read_labels(mask_id)
        labels[labels == IGNORE_VALUE] = IGNORE
        return np.ascontiguousarray(labels, dtype=np.int16)
