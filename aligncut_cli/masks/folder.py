"""A folder of PNG masks named by image id, binary or with class indices."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import numpy as np

from aligncut_cli.errors import BadInput
from aligncut_cli.images.names import strip_image_suffix
from aligncut_cli.masks.base import IGNORE, Mask, MaskSet, check_id
from aligncut_cli.masks.label_image import read_label_image

IGNORE_VALUE = 255
BINARY_CLASSES = ("background", "foreground")
MOST_UNNAMED_CLASSES = 128
"""More distinct values than this in one mask without class names is a grey picture, not a map of classes."""


class PngFolderMasks(MaskSet):
    """`FOLDER/ID.png`, ids may contain '/'.

    Values: 0 background, 1, 2, ... classes, 255 ignored. If no mask of the folder has another value than 0 and
    255, the folder is binary and 255 is the object. A folder that mixes masks of {0, 1} with masks of {0, 255}
    is refused: what 255 means could not be told. Names come from `classes`, or `classes.txt` in the folder or
    its parent (one per line, the line is the index from 0); without names every mask is read once to learn the
    highest class.
    """

    def __init__(self, path: Path, *, classes: Path | None) -> None:
        self.path = path
        self._files = _list_pngs(path)
        if not self._files:
            raise BadInput(
                f"No PNG masks in {path}",
                why="A mask is FOLDER/ID.png, with the image's id.",
                do="Check the path and --masks-format.",
            )
        self.ids = tuple(self._files)
        names_file = classes if classes is not None else _find_names(path)
        self._names = None if names_file is None else read_class_names(names_file)
        self.sources = [*self._files.values(), *([] if names_file is None else [names_file])]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Class names, from the file of names or made up from the highest index met."""
        if self._names is not None:
            return self._names
        binary, highest = self._coding
        if binary or highest <= 1:
            return BINARY_CLASSES
        return ("background", *(f"class {index}" for index in range(1, highest + 1)))

    def find(self, image_id: str) -> str | None:
        """Look an image's mask up, with or without the image's suffix in the id."""
        check_id(image_id)
        if image_id in self._files:
            return image_id
        bare = strip_image_suffix(image_id)
        return bare if bare in self._files else None

    def _load(self, mask_id: str) -> Mask:
        values = read_label_image(self._files[mask_id])
        ignored = values == IGNORE_VALUE
        if ignored.any() and self.n_classes <= 2 and self._coding[0]:
            return np.where(ignored, 1, values).astype(np.int16)
        if values.max(initial=0) > np.iinfo(np.int16).max:
            raise BadInput(f"The mask {self._files[mask_id]} has the value {values.max()}: not a class index.")
        if self.n_classes > IGNORE_VALUE:
            return values.astype(np.int16)
        return np.where(ignored, IGNORE, values).astype(np.int16)

    @cached_property
    def _coding(self) -> tuple[bool, int]:
        """Tell, from all masks, whether 255 is the object of a binary mask, and the highest class index."""
        highest = 0
        ones = objects = both = None  # one file of each kind, to name it in an error
        for file in self._files.values():
            values = np.unique(read_label_image(file))
            if self._names is None and len(values) > MOST_UNNAMED_CLASSES:
                raise BadInput(
                    f"The mask {file} has {len(values)} distinct values: this looks like a grey picture.",
                    why="Values are class indices. Smoothed or JPEG-compressed masks have values in between.",
                    do="Threshold the masks to 0 and 255, or name the classes in classes.txt if there are that many.",
                )
            if IGNORE_VALUE in values:
                inside = values[(values != 0) & (values != IGNORE_VALUE)]
                both, objects = (file, objects) if len(inside) else (both, file)
                highest = max([highest, *inside.tolist()])
            else:
                highest = max(highest, int(values[-1]))
                ones = file if values[-1] == 1 else ones
        if objects is not None and ones is not None and both is None and highest == 1:
            raise BadInput(
                f"The masks in {self.path} are coded in two ways: {ones.name} with 1, {objects.name} with 255.",
                why="255 is the object where a folder has only 0 and 255, and 'ignore' where it has class indices.",
                do="Save all masks with 0 = background, 1 = object and 255 = ignore.",
            )
        return objects is not None and highest == 0, highest


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read one class name per line; the line number from 0 is the class index."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Cannot read the class names in {path}", why=str(error)) from error
    if len(lines) < 2 or "" in lines or len(set(lines)) < len(lines):
        raise BadInput(
            f"{path} does not name classes.",
            why=f"It has {len(lines)} lines; each must be a name of its own, the first the background's.",
            do="Write one class name per line, from 0 = background.",
        )
    return tuple(lines)


def _list_pngs(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    seen: set[tuple[int, int]] = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        status = os.stat(where)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder that was visited
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(".png") and not name.startswith("."):
                file = Path(where, name)
                found[file.relative_to(folder).with_suffix("").as_posix()] = file
    return dict(sorted(found.items()))


def _find_names(folder: Path) -> Path | None:
    places = (folder / "classes.txt", folder.resolve().parent / "classes.txt")
    return next((place for place in places if place.is_file()), None)
