"""Opens the masks that a stage is given; what they hold, not where they lie, is part of the stage's identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aligncut_cli.store.provenance import InputRecord, digest_file, digest_of

if TYPE_CHECKING:
    from aligncut_cli.masks import MaskSet


@dataclass(frozen=True)
class MaskInput:
    """Masks as an input of a stage, or that it was given none.

    records : path, kind `masks`, and the digest of every file they are read from
    format  : png, voc or imagenet-seg, which decides what the files mean
    """

    masks: MaskSet | None = None
    records: Sequence[InputRecord] = ()
    format: str | None = None


def open_mask_input(path: Path | None, *, format: str, classes: Path | None) -> MaskInput:
    """Open masks and hash their files; images are not looked at yet."""
    if path is None:
        return MaskInput()
    from aligncut_cli.masks import guess_format, open_masks

    masks = open_masks(path, format=format, classes=classes)
    content = [list(masks.ids), [digest_file(file) for file in masks.sources]]
    record = InputRecord(str(path.resolve()), "masks", digest_of(content))
    return MaskInput(masks, [record], guess_format(path) if format == "auto" else format)
