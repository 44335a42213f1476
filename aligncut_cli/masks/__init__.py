"""Ground-truth masks of several formats behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.masks.base import IGNORE, Mask, MaskSet, check_mask_size
from aligncut_cli.masks.folder import PngFolderMasks
from aligncut_cli.masks.imagenet_seg import ImageNetSegMasks
from aligncut_cli.masks.relabel import RelabelledMasks
from aligncut_cli.masks.voc import VocMasks

__all__ = ["FORMATS", "IGNORE", "Mask", "MaskSet", "check_mask_size", "guess_format", "open_masks"]

FORMATS: dict[str, type[MaskSet]] = {
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
    ignored: Sequence[str] = (),
    background: str | None = None,
) -> MaskSet:
    """Open a folder or file of masks.

    format    : 'png', 'voc', 'imagenet-seg', or 'auto' to tell it from the path
    classes   : a text file with one class name per line from 0 = background; None for the format's own names
    threshold : values from here on are the one object (PNG masks only)
    split     : of VOC: train, val, or the path of a list of images
    ignored   : names of classes whose pixels do not count
    background: name of the class that is the background, `none`, or None for class 0
    """
    path = Path(path)
    if format != "auto" and format not in FORMATS:
        raise UsageError(f"Unknown masks format {format!r}.", do=f"Use one of: auto, {', '.join(FORMATS)}.")
    if not path.exists():
        raise BadInput(f"No masks at {path}", why="There is no such folder or file.", do="Check --masks.")
    chosen = guess_format(path) if format == "auto" else format
    kind = FORMATS[chosen]
    if not kind.fits(path):
        raise BadInput(
            f"{path} is not {kind.holds}.",
            why=f"Masks of format {chosen!r} are {kind.holds}.",
            do="Check --masks-format.",
        )
    named = None if classes is None else Path(classes)
    masks = kind(path, classes=named, threshold=threshold, split=split)
    if not ignored and background is None:
        return masks
    return RelabelledMasks(masks, ignored=ignored, background=background)


def guess_format(path: Path) -> str:
    """Tell a format from what is there: the one that can be nothing else, or PNGs."""
    return next((name for name, kind in FORMATS.items() if kind.claims(path)), "png")
