"""Ground-truth masks of several formats behind one interface."""

from __future__ import annotations

from pathlib import Path

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.masks.base import IGNORE, Mask, MaskSet, check_mask_size
from aligncut_cli.masks.folder import PngFolderMasks
from aligncut_cli.masks.imagenet_seg import ImageNetSegMasks
from aligncut_cli.masks.voc import ROOTS, VocMasks

__all__ = ["FORMATS", "IGNORE", "Mask", "MaskSet", "check_mask_size", "guess_format", "open_masks"]

FORMATS: dict[str, type[PngFolderMasks] | type[VocMasks] | type[ImageNetSegMasks]] = {
    "png": PngFolderMasks,
    "voc": VocMasks,
    "imagenet-seg": ImageNetSegMasks,
}


def open_masks(path: str | Path, *, format: str, classes: str | Path | None = None) -> MaskSet:
    """Open a folder or file of masks.

    format  : 'png', 'voc', 'imagenet-seg', or 'auto' to tell it from the path
    classes : a text file with one class name per line from 0 = background; None for the format's own names
    """
    path = Path(path)
    if format != "auto" and format not in FORMATS:
        raise UsageError(f"Unknown masks format {format!r}.", do=f"Use one of: auto, {', '.join(FORMATS)}.")
    if not path.exists():
        raise BadInput(f"No masks at {path}", why="There is no such folder or file.", do="Check --masks.")
    chosen = guess_format(path) if format == "auto" else format
    if path.is_dir() == (chosen == "imagenet-seg"):
        kind = "a .mat file" if chosen == "imagenet-seg" else "a folder"
        raise BadInput(
            f"{path} is not {kind}.", why=f"Masks of format {chosen!r} are {kind}.", do="Check --masks-format."
        )
    return FORMATS[chosen](path, classes=None if classes is None else Path(classes))


def guess_format(path: Path) -> str:
    """Tell a format from what is there: a file, VOC's folders, or any other folder."""
    if path.is_file():
        return "imagenet-seg"
    return "voc" if any((path / below / "SegmentationClass").is_dir() for below in ROOTS) else "png"
