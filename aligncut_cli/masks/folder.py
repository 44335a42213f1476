"""A folder of PNG masks named by image id, binary or with class indices."""

from __future__ import annotations

import unicodedata
from functools import cached_property
from pathlib import Path

import numpy as np

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.images.folder import is_regular, name_some, walk_files
from aligncut_cli.images.guard import BLANK, read_text, require_file
from aligncut_cli.images.names import is_safe_name, strip_image_suffix
from aligncut_cli.masks.base import IGNORE, Mask, MaskSet, check_id
from aligncut_cli.masks.label_image import read_label_image
from aligncut_cli.masks.values import IGNORE_VALUE, Coding, decide_coding, require_two_classes, survey_masks

BINARY_CLASSES = ("background", "foreground")
MOST_BYTES_OF_NAMES, MOST_LETTERS = 1 << 20, 200


class PngFolderMasks(MaskSet):
    """`FOLDER/ID.png`, ids may contain '/'; or one PNG, the mask of one image.

    Values: 0 background, 1, 2, ... classes, 255 ignored. If no mask of the folder has another value than 0 and
    255, the folder is binary and 255 is the object. Names come from `classes`, or `classes.txt` in the folder or
    its parent (one per line, the line is the index from 0). Every mask is read once, so that values which could mean
    two things are refused (`values.decide_coding`).

    threshold : values from here on are the object, all others the background, nothing is ignored
    """

    holds = "a folder or a PNG"

    def __init__(self, path: Path, *, classes: Path | None, threshold: int | None = None, split: str = "") -> None:
        self.path, self.threshold = path, threshold
        self._files = _list_pngs(path)
        self.ids = tuple(self._files)
        self._by_plain_name = {_plain(name): name for name in self._files}
        if threshold is not None and classes is not None:
            raise UsageError("--threshold makes masks binary, and --classes names more", do="Leave one of them out.")
        found = _find_names(path) if classes is None and threshold is None else None
        self._names_file = classes or found
        self._names = None if self._names_file is None else read_class_names(self._names_file)
        if found is not None:
            self.notes = (f"class names are taken from {found}; another file is given by --classes",)
        self.sources = [*self._files.values(), *([] if self._names_file is None else [self._names_file])]

    @classmethod
    def fits(cls, path: Path) -> bool:
        """Return whether a path could be one of this format."""
        return path.is_dir() or (path.is_file() and path.suffix.lower() == ".png")

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Return whether what is there can be nothing else."""
        return False  # any folder may be one

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, from the file of names or made up from the highest index met."""
        n_classes = self._coding.n_classes
        if self._names is not None:
            return self._names
        if n_classes == 2:
            return BINARY_CLASSES
        return ("background", *(f"class {index}" for index in range(1, n_classes)))

    def find(self, image_id: str) -> str | None:
        """Look an image's mask up, with or without the image's suffix in the id, however its accents are written."""
        check_id(image_id)
        plain = _plain(image_id)
        return self._by_plain_name.get(plain) or self._by_plain_name.get(strip_image_suffix(plain))

    def _load(self, mask_id: str) -> Mask:
        values = read_label_image(self._files[mask_id])
        coding = self._coding
        if coding.object is not None:
            return (values >= coding.object).astype(np.int16)
        if values.max(initial=0) > np.iinfo(np.int16).max:
            raise BadInput(f"The mask {self._files[mask_id]} has the value {values.max()}: not a class index.")
        if coding.n_classes > IGNORE_VALUE:
            return values.astype(np.int16)
        return np.where(values == IGNORE_VALUE, IGNORE, values).astype(np.int16)

    @cached_property
    def _coding(self) -> Coding:
        survey = survey_masks(list(self._files.values()), read_label_image)
        if self.threshold is not None:
            require_two_classes(survey, {value >= self.threshold for value in survey.values}, path=self.path)
            return Coding(2, self.threshold)
        return decide_coding(survey, self._names, path=self.path, names_file=self._names_file)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read one class name per line; the line number from 0 is the class index."""
    require_file(path, do="Check --classes.")
    if path.stat().st_size > MOST_BYTES_OF_NAMES:
        raise BadInput(f"{path} does not name classes: it is larger than {MOST_BYTES_OF_NAMES:,} bytes.")
    text = read_text(path, "a list of class names")
    lines = [line.strip(BLANK) for line in text.rstrip().split("\n")]
    good = all(is_safe_name(line) and len(line) <= MOST_LETTERS for line in lines)
    if len(lines) < 2 or not good or len(set(lines)) < len(lines):
        raise BadInput(
            f"{path} does not name classes.",
            why=f"It has {len(lines)} lines; each must be a name of its own, the first the background's.",
            do="Write one class name per line, from 0 = background.",
        )
    return tuple(lines)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _list_pngs(path: Path) -> dict[str, Path]:
    """Return the masks of a folder by id, in the order of ids."""
    if path.is_file():
        return {path.stem: path}
    found: dict[str, Path] = {}
    others: list[Path] = []
    for file in walk_files(path):
        if file.suffix.lower() != ".png" or not is_regular(file):
            others.append(file)
            continue
        image_id = file.relative_to(path).with_suffix("").as_posix()
        if image_id in found:
            raise BadInput(f"Both {found[image_id]} and {file} are the mask of image {image_id!r}.")
        found[image_id] = file
    if found:
        return dict(sorted(found.items()))
    lossy = f" {name_some(others)} are no PNGs: JPEG blurs class indices, and other formats are not read." * bool(
        others
    )
    raise BadInput(
        f"No PNG masks in {path}",
        why=f"A mask is FOLDER/ID.png, with the image's id.{lossy}",
        do="Save masks as PNGs of class indices, and check --masks and --masks-format.",
    )


def _find_names(path: Path) -> Path | None:
    folder = path.parent if path.is_file() else path
    places = (folder / "classes.txt", folder.resolve().parent / "classes.txt")
    return next((place for place in places if place.is_file()), None)
