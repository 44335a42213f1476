"""Images, responses and masks as inputs of a stage: what they hold, not where they lie, is part of its identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from aligncut_cli.console import Console
from aligncut_cli.digests import digest_file, digest_of
from aligncut_cli.errors import UsageError
from aligncut_cli.params import MaskParams
from aligncut_cli.store.provenance import InputRecord

if TYPE_CHECKING:
    from aligncut_cli.masks import MaskSet


MASK_PARAMS = tuple(item.name for item in fields(MaskParams) if item.name != "seed")
"""Parameters that say how masks are read; the digest of the masks says the same by content."""


@dataclass(frozen=True)
class MaskInput:
    """Masks as an input of a stage, or that it was given none.

    records : path, kind `masks`, and the digest of every file they are read from
    format  : png, voc or imagenet-seg, which decides what the files mean
    """

    masks: MaskSet | None = None
    records: Sequence[InputRecord] = ()
    format: str | None = None


def require_background(masks: MaskSet | None) -> None:
    """Refuse masks without a background where figure is told from ground."""
    if masks is not None and not masks.has_background:
        raise UsageError(
            "figure cannot be told from ground without a background", do="Leave --background none out, or name a class."
        )


def open_mask_input(path: Path | None, params: MaskParams, *, classes: Path | None, console: Console) -> MaskInput:
    """Open masks and hash their files; images are not looked at yet. What is used unasked is said."""
    if path is None:
        return MaskInput()
    from aligncut_cli.masks import guess_format, open_masks

    format, threshold = params.masks_format, params.threshold
    masks = open_masks(
        path,
        format=format,
        classes=classes,
        threshold=threshold,
        split=params.split,
        ignored=params.ignore_class,
        background=params.background,
    )
    for note in masks.notes:
        console.note(note)
    content = [list(masks.ids), [digest_file(file) for file in masks.sources], *([threshold] if threshold else [])]
    if params.ignore_class or params.background is not None:
        content.append({"ignored": list(params.ignore_class), "background": params.background})
    record = InputRecord(str(path.resolve()), "masks", digest_of(content), files=tuple(masks.sources))
    return MaskInput(masks, [record], guess_format(path) if format == "auto" else format)


RESPONSE_SUFFIXES = (
    *(".npy", ".npz", ".json", ".csv", ".tsv", ".txt", ".mat", ".h5", ".hdf5"),
    *(".nii", ".gz", ".gii", ".mgh", ".mgz", ".nc"),
)
"""What a folder of responses is made of; our own outputs in it are no part of it."""
