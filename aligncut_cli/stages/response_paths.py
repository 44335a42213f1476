"""Responses as an input of `align`: where those of one or several subjects lie, and the digest of what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path

from aligncut_cli.digests import digest_file, digest_of
from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.images.folder import walk_files
from aligncut_cli.store.provenance import InputRecord

RESPONSE_SUFFIXES = (
    *(".npy", ".npz", ".json", ".csv", ".tsv", ".txt", ".mat", ".h5", ".hdf5"),
    *(".nii", ".gz", ".gii", ".mgh", ".mgz"),
)
"""What a folder of responses is made of; our own outputs in it are no part of it."""
NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.+-]*)=(.+)")
UNNAMED = ""
"""The name of the only subject, where none is given."""


@dataclass(frozen=True)
class SubjectPaths:
    """Where one subject's responses lie: a folder or file, and what goes with it."""

    responses: Path
    image_ids: Path | None = None
    rois: Path | None = None
    noise_ceiling: Path | None = None

    @property
    def given(self) -> list[Path]:
        """Return all of them that there are."""
        paths = (getattr(self, item.name) for item in fields(self))
        return [path for path in paths if path is not None]

    def list_files(self) -> list[tuple[str, Path]]:
        """Return every file of theirs, with what it is to them.

        raises : BadInput where a path leads nowhere
        """
        from aligncut_cli.brain.files import split_dataset

        names: list[tuple[str, Path]] = []
        for number, path in enumerate(self.given):
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
        return names


@dataclass(frozen=True)
class ResponsePaths:
    """Where the responses of every subject lie, by its name."""

    subjects: Mapping[str, SubjectPaths]

    @classmethod
    def of(cls, given: Mapping[str, Sequence[str | PathLike[str]]]) -> ResponsePaths:
        """Sort paths, each PATH or NAME=PATH, by subject.

        given  : `responses`, and what goes with them, by the names of SubjectPaths
        raises : UsageError where it is not clear whose they are
        """
        found = {name: _split_names(name, paths) for name, paths in given.items()}
        subjects = list(found["responses"])
        for name, paths in found.items():
            if list(paths) == [UNNAMED] and len(subjects) == 1:
                found[name] = {subjects[0]: paths[UNNAMED]}
            strangers = [subject for subject in found[name] if subject not in subjects]
            if strangers:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(
                    f"{flag} {strangers[0]}{'=' if strangers[0] else ''}{paths[strangers[0]]} is of no subject",
                    do=f"Say whose it is: {flag} {subjects[0]}=PATH, by a name of --responses."
                    if subjects != [UNNAMED]
                    else f"Leave the name out, or name the subject: --responses {strangers[0]}=PATH.",
                )
        return cls(
            {
                subject: SubjectPaths(**{name: paths[subject] for name, paths in found.items() if subject in paths})
                for subject in subjects
            }
        )

    def only(self, stage: str) -> SubjectPaths:
        """Return the one subject's paths.

        raises : UsageError where there are several, which this stage does not join
        """
        if len(self.subjects) > 1:
            raise UsageError(
                f"{stage} takes the responses of one subject, not of {', '.join(self.subjects)}",
                do="Run it once for each.",
            )
        return next(iter(self.subjects.values()))

    def are_synthetic(self) -> bool:
        """Return whether some responses say of themselves that they are computed, by a synthetic.json beside them."""
        paths = [subject.responses for subject in self.subjects.values()]
        folders = [path if path.is_dir() else path.parent for path in paths]
        return any((folder / "synthetic.json").exists() for folder in folders)

    def as_input(self) -> InputRecord:
        """Return the record of these files, by content."""
        files = [(name, *item) for name, subject in self.subjects.items() for item in subject.list_files()]
        with ThreadPoolExecutor(4) as pool:
            digests = list(pool.map(digest_file, [file for _, _, file in files]))
        content = [
            [name, digest] if subject == UNNAMED else [subject, name, digest]
            for (subject, name, _), digest in zip(files, digests, strict=True)
        ]
        where = ", ".join(str(path.resolve()) for subject in self.subjects.values() for path in subject.given)
        return InputRecord(where, "responses", digest_of(content), files=tuple(file for _, _, file in files))


def _split_names(option: str, given: Sequence[str | PathLike[str]]) -> dict[str, Path]:
    """Return paths by the name before them; a path that exists as it stands has none."""
    found: dict[str, Path] = {}
    for path in map(Path, given):
        named = None if path.exists() else NAMED.fullmatch(str(path))
        name = named[1] if named else UNNAMED
        if name in found or (found and UNNAMED in (name, *found)):
            flag = f"--{option.replace('_', '-')}"
            raise UsageError(
                f"{flag} is given more than once{f' for {name}' if name else ''}",
                do=f"Of several subjects give each a name of its own: {flag} subj01=PATH {flag} subj02=PATH",
            )
        found[name] = Path(named[2]) if named else path
    return found
