"""Images, responses and masks as inputs of a stage: what they hold, not where they lie, is part of its identity."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aligncut_cli.console import Console
from aligncut_cli.digests import digest_file, digest_of
from aligncut_cli.errors import BadInput
from aligncut_cli.images.folder import walk_files
from aligncut_cli.params import MaskParams
from aligncut_cli.store.provenance import InputRecord

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


def open_mask_input(path: Path | None, params: MaskParams, *, classes: Path | None, console: Console) -> MaskInput:
    """Open masks and hash their files; images are not looked at yet. What is used unasked is said."""
    if path is None:
        return MaskInput()
    from aligncut_cli.masks import guess_format, open_masks

    format, threshold = params.masks_format, params.threshold
    masks = open_masks(path, format=format, classes=classes, threshold=threshold, split=params.split)
    for note in masks.notes:
        console.note(note)
    content = [list(masks.ids), [digest_file(file) for file in masks.sources], *([threshold] if threshold else [])]
    record = InputRecord(str(path.resolve()), "masks", digest_of(content), files=tuple(masks.sources))
    return MaskInput(masks, [record], guess_format(path) if format == "auto" else format)


RESPONSE_SUFFIXES = (
    *(".npy", ".npz", ".json", ".csv", ".tsv", ".txt", ".mat", ".h5", ".hdf5"),
    *(".nii", ".gz", ".gii", ".mgh", ".mgz", ".nc"),
)
"""What a folder of responses is made of; our own outputs in it are no part of it."""


@dataclass(frozen=True)
class ResponsePaths:
    """Where responses lie: a folder or .npy file, and what goes with it."""

    responses: Path
    image_ids: Path | None = None
    rois: Path | None = None
    noise_ceiling: Path | None = None

    def are_synthetic(self) -> bool:
        """Return whether the responses say of themselves that they are computed, by a synthetic.json beside them."""
        folder = self.responses if self.responses.is_dir() else self.responses.parent
        return (folder / "synthetic.json").exists()

    def as_input(self) -> InputRecord:
        """Return the record of these files, by content."""
        from aligncut_cli.brain.files import split_dataset

        given = [path for path in (self.responses, self.image_ids, self.rois, self.noise_ceiling) if path is not None]
        names: list[tuple[str, Path]] = []
        for number, path in enumerate(given):
            file, dataset = split_dataset(path)
            if file.is_dir():
                found = [inner for inner in walk_files(file) if inner.suffix.lower() in RESPONSE_SUFFIXES]
                names += [(f"{number}/{inner.relative_to(file).as_posix()}", inner) for inner in found]
            elif file.exists():
                names.append((f"{number}::{dataset}" if dataset else str(number), file))
            else:
                raise BadInput(
                    f"no such file or folder: {path}", do="Give --responses an Algonauts subject or an .npy."
                )
        files = [file for _, file in names]
        with ThreadPoolExecutor(4) as pool:
            digests = list(pool.map(digest_file, files))
        content = [[name, digest] for (name, _), digest in zip(names, digests, strict=True)]
        where = ", ".join(str(path.resolve()) for path in given)
        return InputRecord(where, "responses", digest_of(content), files=tuple(files))
