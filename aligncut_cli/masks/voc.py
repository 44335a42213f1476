"""PASCAL VOC 2012 segmentation: palette PNGs, 20 classes and background, 255 = ignore."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from aligncut_cli.errors import BadInput
from aligncut_cli.images.names import strip_image_suffix
from aligncut_cli.masks.base import IGNORE, Mask, MaskSet, check_id
from aligncut_cli.masks.folder import read_class_names
from aligncut_cli.masks.label_image import read_label_image

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
IGNORE_VALUE = 255
ROOTS = ("", "VOC2012", "VOCdevkit/VOC2012")


class VocMasks(MaskSet):
    """`ImageSets/Segmentation/SPLIT.txt` lists the ids, `SegmentationClass/ID.png` are the masks.

    path  : VOC2012, VOCdevkit or the folder above it
    split : 'val' in the paper
    """

    def __init__(self, path: Path, *, classes: Path | None, split: str = "val") -> None:
        self.path = find_voc_root(path)
        listing = self.path / "ImageSets" / "Segmentation" / f"{split}.txt"
        try:
            words = [line.split() for line in listing.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(
                f"Cannot read the list of images {listing}",
                why=str(error),
                do="Unpack VOCtrainval_11-May-2012.tar whole; the path to give is VOCdevkit or VOC2012.",
            ) from error
        self.ids = tuple(word[0] for word in words if word)
        if not self.ids:
            raise BadInput(f"The list of images {listing} is empty.")
        for image_id in self.ids:
            check_id(image_id)
        self._known = frozenset(self.ids)
        self._classes = VOC_CLASSES if classes is None else read_class_names(classes)
        names = [] if classes is None else [classes]
        self.sources = [listing, *map(self._mask_path, self.ids), *names]

    @property
    def classes(self) -> tuple[str, ...]:
        """The 20 classes after the background, in VOC's order."""
        return self._classes

    def find(self, image_id: str) -> str | None:
        """Look an image up by its file name: 'JPEGImages/2007_000033.jpg' is 2007_000033."""
        check_id(image_id)
        if image_id in self._known:
            return image_id
        name = PurePosixPath(strip_image_suffix(image_id)).name
        return name if name in self._known else None

    def _mask_path(self, mask_id: str) -> Path:
        return self.path / "SegmentationClass" / f"{mask_id}.png"

    def _load(self, mask_id: str) -> Mask:
        values = read_label_image(self._mask_path(mask_id))
        if self.n_classes <= IGNORE_VALUE:
            values[values == IGNORE_VALUE] = IGNORE
        return values.astype(np.int16)


def find_voc_root(path: Path) -> Path:
    """Find the folder with ImageSets and SegmentationClass: the path itself or below it."""
    for below in ROOTS:
        root = path / below
        if (root / "SegmentationClass").is_dir():
            return root
    raise BadInput(
        f"No PASCAL VOC 2012 in {path}",
        why="Neither it nor VOC2012 nor VOCdevkit/VOC2012 inside it has a folder SegmentationClass.",
        do="Give the folder VOC2012 of the unpacked VOCtrainval_11-May-2012.tar.",
    )
