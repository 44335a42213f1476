"""What a set of ground-truth masks is: class indices per pixel by image id, whatever the files look like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput

IGNORE = -1
"""The label of pixels that no score may count."""

Mask = NDArray[np.int16]


class MaskSet(ABC):
    """Masks by image id; every format is one subclass.

    path    : the folder or file they come from
    ids     : image ids in a fixed order
    classes : names, index 0 is the background
    sources : every file that masks and classes are read from, in a fixed order; their content is what counts
    notes   : what was found and used unasked, for the user to see
    has_background : whether class 0 is one
    palette : colours that its classes are drawn in: `safe` for any eye, or `voc`
    """

    notes: tuple[str, ...] = ()
    has_background: bool = True
    palette: str = "safe"

    holds: ClassVar[str]
    """What a path to such masks is, for messages."""

    path: Path
    ids: tuple[str, ...]
    sources: list[Path]

    @abstractmethod
    def __init__(self, path: Path, *, classes: Path | None, threshold: int | None = None, split: str = "") -> None:
        """Find the masks; none is read.

        classes   : file of class names, None for the format's own
        threshold : values from here on are the one object
        split     : which part of a set that has several
        """

    @classmethod
    @abstractmethod
    def fits(cls, path: Path) -> bool:
        """Return whether a path could be one of this format."""

    @classmethod
    @abstractmethod
    def claims(cls, path: Path) -> bool:
        """Return whether what is there can be nothing else, so that the format need not be named."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Class names; the position is the class index, 0 is the background."""

    @property
    def n_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.classes)

    @abstractmethod
    def find(self, image_id: str) -> str | None:
        """Return the mask's own id for an image, None where the image has no mask."""

    @abstractmethod
    def _load(self, mask_id: str) -> Mask:
        """Read one mask whose id is known: (h, w), IGNORE where no class is given."""

    def read(self, image_id: str, *, size: tuple[int, int] | None = None) -> Mask:
        """Read one image's mask.

        size    : (height, width) of the upright image; a mask of another size is refused
        returns : (h, w) class indices, IGNORE = -1 where no class is given
        """
        mask_id = self.find(image_id)
        if mask_id is None:
            raise self._missing([image_id])
        mask = self._load(mask_id)
        n_classes = self.n_classes
        highest = int(mask.max(initial=IGNORE))
        if highest >= n_classes:
            raise BadInput(
                f"The mask of image {image_id!r} has class index {highest}, but only {n_classes} classes are named "
                f"(0 to {n_classes - 1}).",
                why=f"Masks: {self.path}",
                do="Name every class in classes.txt, one per line from 0 = background, or correct the mask.",
            )
        if size is not None:
            check_mask_size(mask, size, image_id=image_id)
        return mask

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """List the images that have no mask, in order; masks without an image are no fault and are not looked at."""
        return [image_id for image_id in image_ids if self.find(image_id) is None]

    def require(self, image_ids: Iterable[str]) -> None:
        """Raise BadInput that names the images without a mask, if there are any, or where all masks hold one class.

        Masks are read until two classes are met, so mostly one.
        """
        wanted = list(image_ids)
        absent = self.missing(wanted)
        if absent:
            raise self._missing(absent)
        met: set[int] = set()
        for image_id in wanted:
            met |= {int(value) for value in np.unique(self.read(image_id))} - {IGNORE}
            if len(met) > 1:
                return
        if wanted:
            raise BadInput(
                f"The masks of these {len(wanted):,} images hold one class only"
                f"{'' if not met else f', {self.classes[met.pop()]}'}, or nothing but ignored pixels.",
                why=f"Masks: {self.path}. There is nothing to tell apart, and any score would be perfect.",
                do="Check that these are the masks of these images.",
            )

    def _missing(self, absent: Sequence[str]) -> BadInput:
        shown = ", ".join(repr(image_id) for image_id in absent[:5])
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        have = ", ".join(repr(mask_id) for mask_id in self.ids[:3]) or "none"
        near = next((mask_id for mask_id in self.ids if absent[0].casefold() in mask_id.casefold()), None)
        return BadInput(
            f"No mask for {len(absent)} image{'s' if len(absent) > 1 else ''}: {shown}{more}.",
            why=f"Masks: {self.path}, {len(self.ids)} of them ({have}, ...); an image's mask has the image's id.",
            do=(f"If {near!r} is the one of {absent[0]!r}, name every mask exactly as its image. " if near else "")
            + "Add the masks, or extract features only of images that have one "
            "(aligncut extract takes a text file with one image path per line).",
        )


def check_mask_size(mask: Mask, size: tuple[int, int], *, image_id: str) -> None:
    """Refuse a mask that does not cover the image pixel by pixel.

    mask : (h, w)
    size : (height, width) of the image as it is looked at, after its EXIF orientation
    """
    if mask.shape == tuple(size):
        return
    height, width = mask.shape
    turned = (width, height) == tuple(size)
    raise BadInput(
        f"The mask of image {image_id!r} is {width} x {height} pixels (width x height), "
        f"the image is {size[1]} x {size[0]}.",
        why="The sides are swapped: the mask follows the stored photo, features its upright view (EXIF orientation)."
        if turned
        else "A mask must cover its image pixel by pixel.",
        do="Rotate the mask as the photo's EXIF orientation says."
        if turned
        else "Resize the mask with nearest-neighbour interpolation (never bilinear: it invents class indices).",
    )


def check_id(image_id: str) -> None:
    """Refuse ids that would lead out of a folder."""
    parts = PurePosixPath(image_id).parts
    if not image_id or "\0" in image_id or "\\" in image_id or image_id.startswith("/") or ".." in parts:
        raise BadInput(
            f"The image id {image_id!r} cannot name a mask.",
            why="An id is a path inside the folder of images: no '..', no leading '/', no backslash.",
            do="Rename the image, or extract its features again: aligncut extract IMAGES -o F.zarr --model clip",
        )
