"""PASCAL VOC 2012 segmentation: palette PNGs, 20 classes and background, 255 = ignore."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.images.guard import read_text, require_file
from aligncut_cli.images.names import strip_image_suffix
from aligncut_cli.masks.base import IGNORE, Mask, MaskSet, check_id
from aligncut_cli.masks.folder import read_class_names
from aligncut_cli.masks.label_image import read_label_image
from aligncut_cli.masks.values import IGNORE_VALUE

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
FOLDERS = ("SegmentationClass", "SegmentationClassAug")
ROOTS = ("", "VOC2012", "VOCdevkit/VOC2012")


class VocMasks(MaskSet):
    """`ImageSets/Segmentation/SPLIT.txt` lists the ids, `SegmentationClass/ID.png` are the masks.

    Masks that are not there are those of `SegmentationClassAug`, as SBD's extended VOC is laid out; an image of the
    list that has neither has no mask, so that a part of VOC can be unpacked.

    path  : VOC2012, VOCdevkit or the folder above it
    split : train, val (the paper's) or trainval, or the path of a list
    """

    holds = "a folder"
    palette = "voc"

    def __init__(self, path: Path, *, classes: Path | None, threshold: int | None = None, split: str = "val") -> None:
        if threshold is not None:
            raise UsageError("--threshold is for folders of PNG masks; VOC's have class indices", do="Leave it out.")
        self.path = find_voc_root(path)
        listing = self._find_list(split)
        words = [line.split() for line in read_text(listing, "a list of images").split("\n")]
        paths = [strip_image_suffix(word[0].lstrip("/")) for word in words if word]
        if not paths:
            raise BadInput(f"The list of images {listing} is empty.")
        for image_id in paths:
            check_id(image_id)
        listed = [PurePosixPath(image_id).name for image_id in paths]  # SBD's lists hold paths
        self._files = {image_id: file for image_id in listed if (file := self._find_mask(image_id)) is not None}
        self.ids = tuple(self._files)
        if not self.ids:
            raise BadInput(f"None of the {len(listed):,} images in {listing} has a mask in {' or '.join(FOLDERS)}.")
        if len(self.ids) < len(set(listed)):
            self.notes = (f"{len(self.ids):,} of the {len(listed):,} images in {listing.name} have masks here",)
        self._classes = VOC_CLASSES if classes is None else read_class_names(classes)
        names = [] if classes is None else [classes]
        self.sources = [listing, *self._files.values(), *names]

    @classmethod
    def fits(cls, path: Path) -> bool:
        """Return whether a path could be one of this format."""
        return path.is_dir()

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Return whether what is there can be nothing else."""
        return any((path / below / folder).is_dir() for below in ROOTS for folder in FOLDERS)

    def _find_list(self, split: str) -> Path:
        own = self.path / "ImageSets" / "Segmentation" / f"{split}.txt"
        listing = own if own.is_file() else Path(split).expanduser()
        require_file(
            own if listing.suffix == "" else listing,
            do="Give --split train, val or the path of a list; unpack VOCtrainval_11-May-2012.tar whole for its own.",
        )
        return listing

    def _find_mask(self, image_id: str) -> Path | None:
        files = (self.path / folder / f"{image_id}.png" for folder in FOLDERS)
        return next((file for file in files if file.is_file()), None)

    @property
    def classes(self) -> tuple[str, ...]:
        """The 20 classes after the background, in VOC's order."""
        return self._classes

    def find(self, image_id: str) -> str | None:
        """Look an image up by its file name: 'JPEGImages/2007_000033.jpg' is 2007_000033."""
        check_id(image_id)
        if image_id in self._files:
            return image_id
        name = PurePosixPath(strip_image_suffix(image_id)).name
        return name if name in self._files else None

    def _load(self, mask_id: str) -> Mask:
        values = read_label_image(self._files[mask_id])
        if self.n_classes <= IGNORE_VALUE:
            values[values == IGNORE_VALUE] = IGNORE
        return values.astype(np.int16)


def find_voc_root(path: Path) -> Path:
    """Find the folder with ImageSets and SegmentationClass: the path itself or below it."""
    for below in ROOTS:
        if any((path / below / folder).is_dir() for folder in FOLDERS):
            return path / below
    raise BadInput(
        f"No PASCAL VOC 2012 in {path}",
        why="Neither it nor VOC2012 nor VOCdevkit/VOC2012 inside it has a folder SegmentationClass.",
        do="Give the folder VOC2012 of the unpacked VOCtrainval_11-May-2012.tar.",
    )
