"""What is decoded from: features stores or photos side by side, each with a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aligncut_cli.digests import digest_of
from aligncut_cli.errors import UsageError
from aligncut_cli.images.files import ImageFile, find_images, hash_images
from aligncut_cli.store.provenance import InputRecord, read_record
from aligncut_cli.store.read import Store, open_store, read_piped_path


@dataclass(frozen=True)
class Source:
    """One features store, or photos.

    store  : None of photos
    files  : none of a store
    record : as an input of the stage
    """

    name: str
    path: Path
    store: Store | None
    files: Sequence[ImageFile]
    record: InputRecord


def open_source(argument: str, *, note: Callable[[str], None]) -> Source:
    """Open a features store or photos, given as PATH, NAME=PATH or `-`; without a name it is called as its file."""
    name, equals, path = argument.partition("=")
    if not equals or "/" in name or Path(argument).exists():
        name, path = "", argument
    found = read_piped_path(path)
    name = name or found.resolve().name.removesuffix(".zarr")
    if found.exists() and not (found.is_dir() and read_record(found) is not None):
        files = find_images([found], note=note)
        content = [[file.id, digest] for file, digest in zip(files, hash_images(files), strict=True)]
        paths = tuple(file.path for file in files)
        record = InputRecord(str(found.resolve()), "images", digest_of(content), files=paths)
        return Source(name, found, None, files, record)
    store = open_store(found, "features")
    return Source(name, found, store, (), store.as_input)


def open_sources(
    arguments: Sequence[str], *, method: str, band: str | None, note: Callable[[str], None]
) -> list[Source]:
    """Open all that stand side by side.

    raises : UsageError where two have one name, photos are to be decoded by a ridge, or features to be filtered
    """
    sources = [open_source(argument, note=note) for argument in arguments]
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two sources are called {twice}", do="Give them names: one=A.zarr two=B.zarr")
    stored = next((source for source in sources if source.store is not None), None)
    if band is not None and stored is not None:
        raise UsageError(
            f"--band filters photos, and {stored.path} holds features",
            do=f"Make features of that band: aligncut extract PHOTOS -o F.zarr --band {band}",
        )
    photos = next((source for source in sources if source.store is None), None)
    if photos is not None and method != "towers":
        raise UsageError(
            f"{photos.path} holds photos, and a ridge needs features",
            do=f"Make them with: aligncut extract {photos.path} -o F.zarr; or decode photos by --method towers.",
        )
    return sources
