"""Masks whose classes count otherwise than their files say: some ignored, another one or none the background."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aligncut_cli.errors import UsageError
from aligncut_cli.masks.base import IGNORE, Mask, MaskSet

NO_BACKGROUND = "none"


class RelabelledMasks(MaskSet):
    """Another set of masks, whose pixels of some classes are ignored and whose background is another class or none.

    Classes stand in their order, but the background is first.
    """

    holds = "masks"

    def __init__(self, inner: MaskSet, *, ignored: Sequence[str], background: str | None) -> None:
        """Wrap.

        ignored    : names of classes
        background : name of a class, `none`, or None for that of index 0
        raises     : UsageError where no class is called so
        """
        self.inner = inner
        self.path, self.ids, self.sources, self.notes = inner.path, inner.ids, inner.sources, inner.notes
        self.palette = inner.palette
        self.has_background = background != NO_BACKGROUND
        names = list(inner.classes)
        first = background if background not in (None, NO_BACKGROUND) else names[0]
        for flag, name in (("--background", first), *(("--ignore-class", name) for name in ignored)):
            if name not in names:
                raise UsageError(f"{flag} {name!r} is no class of {inner.path}", do=f"They are: {', '.join(names)}.")
        if self.has_background and first in ignored:
            raise UsageError(f"the background, {first}, cannot be ignored", do="Give --background NAME or none too.")
        self._classes = (first, *(name for name in names if name != first))
        place = [IGNORE if name in ignored else self._classes.index(name) for name in names]
        self._lookup = np.array([*place, IGNORE], dtype=np.int16)  # the last is that of index IGNORE

    @classmethod
    def fits(cls, path: Path) -> bool:
        """Return False: no path is of this format."""
        return False

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Return False: no path is of this format."""
        return False

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names, the background first."""
        return self._classes

    def find(self, image_id: str) -> str | None:
        """Return the mask's own id for an image."""
        return self.inner.find(image_id)

    def _load(self, mask_id: str) -> Mask:
        return self.read(mask_id)

    def read(self, image_id: str, *, size: tuple[int, int] | None = None) -> Mask:
        """Read one image's mask, checked as its own format does, and count its classes otherwise."""
        counted: Mask = self._lookup[self.inner.read(image_id, size=size)]
        return counted
