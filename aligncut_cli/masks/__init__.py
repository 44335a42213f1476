"""Ground-truth masks of several formats behind one interface."""

from __future__ import annotations

from pathlib import Path

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.masks.base import IGNORE, Mask, MaskSet, check_mask_size
from aligncut_cli.masks.folder import PngFolderMasks
from aligncut_cli.masks.imagenet_seg import ImageNetSegMasks
from aligncut_cli.masks.voc import VocMasks, is_voc

__all__ = ["FORMATS", "IGNORE", "Mask", "MaskSet", "check_mask_size", "guess_format", "open_masks"]

FORMATS: dict[str, type[PngFolderMasks] | type[VocMasks] | type[ImageNetSegMasks]] = {
    "png": PngFolderMasks,
    "voc": VocMasks,
    "imagenet-seg": ImageNetSegMasks,
}


def open_masks(
    path: str | Path,
    *,
    format: str,
    classes: str | Path | None = None,
    threshold: int | None = None,
    split: str = "val",
) -> MaskSet:
    """Open a folder or file of masks.

    format    : 'png', 'voc', 'imagenet-seg', or 'auto' to tell it from the path
    classes   : a text file with one class name per line from 0 = background; None for the format's own names
    threshold : values from here on are the one object (PNG masks only)
    split     : of VOC: train, val, or the path of a list of images
    """
    path = Path(path)
    if format != "auto" and format not in FORMATS:
        raise UsageError(f"Unknown masks format {format!r}.", do=f"Use one of: auto, {', '.join(FORMATS)}.")
    if not path.exists():
        raise BadInput(f"No masks at {path}", why="There is no such folder or file.", do="Check --masks.")
    chosen = guess_format(path) if format == "auto" else format
    fits = {"imagenet-seg": path.is_file(), "voc": path.is_dir(), "png": path.is_dir() or is_png(path)}
    if not fits[chosen]:
        kind = {"imagenet-seg": "a .mat file", "voc": "a folder", "png": "a folder or a PNG"}[chosen]
        raise BadInput(
            f"{path} is not {kind}.", why=f"Masks of format {chosen!r} are {kind}.", do="Check --masks-format."
        )
    named = None if classes is None else Path(classes)
    return FORMATS[chosen](path, classes=named, threshold=threshold, split=split)


def guess_format(path: Path) -> str:
    """Tell a format from what is there: a .mat file, VOC's folders, or any other folder or file."""
    if path.is_file():
        return "imagenet-seg" if path.suffix.lower() == ".mat" else "png"
    return "voc" if is_voc(path) else "png"


def is_png(path: Path) -> bool:
    """Return whether a path is that of one PNG."""
    return path.is_file() and path.suffix.lower() == ".png"
