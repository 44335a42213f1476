"""What a finished output's record says of its files: the checksum of every chunk, or the files of a folder."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from aligncut_cli.errors import BadInput
from aligncut_cli.store.chunks import DamagedChunk, chunk_grid, pack_checksums
from aligncut_cli.store.files import list_files, write_json
from aligncut_cli.store.provenance import FOLDER_RECORD, KEY, STORE_RECORD
from aligncut_cli.store.validate import read_json

BLOCK = 1 << 22
LOST = "Type the same command again; it begins anew."


def seal_store(staging: Path, record: dict[str, Any]) -> None:
    """Write the record of a store with the checksums of all its chunks, and consolidate its metadata.

    raises : BadInput where a chunk is missing
    """
    import zarr

    root = zarr.open_group(staging, mode="r+", use_consolidated=False)
    manifest = {}
    try:
        for name, node in sorted(root.members(max_depth=None)):
            if isinstance(node, zarr.Array):
                manifest[name] = pack_checksums(staging / name, chunk_grid(node.shape, node.chunks))
    except DamagedChunk as fault:
        raise BadInput(f"the unfinished output has lost a chunk: {fault}", do=LOST) from fault
    record["manifest"] = manifest
    root.attrs[KEY] = record
    with warnings.catch_warnings():
        # zarr warns that consolidated metadata is not yet in the v3 specification; xarray and zarr read it
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(str(staging))


def seal_folder(staging: Path, record: dict[str, Any], *, promised: Collection[str]) -> None:
    """Write the record of a folder with the checksum of each of its files.

    promised : what its blocks wrote, as paths from there
    raises   : BadInput where one of these is missing
    """
    found = sorted(name for name in list_files(staging) if name != FOLDER_RECORD)
    lost = sorted(set(promised) - set(found) - {FOLDER_RECORD})
    if lost:
        raise BadInput(f"the unfinished output has lost {len(lost)} files, such as {lost[0]}", do=LOST)
    record["files"] = {name: checksum(staging / name) for name in found}
    write_json(staging / FOLDER_RECORD, {KEY: record})


def checksum(file: Path) -> str:
    """Return the CRC-32C of a file's bytes as hexadecimal digits."""
    import google_crc32c

    value = 0
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            value = google_crc32c.extend(value, block)
    return struct.pack(">I", value).hex()


def own_files(path: Path, record: dict[str, Any] | Any) -> tuple[Collection[str], Iterable[str]]:
    """Return the files of a finished output that are named by its record or metadata, and its arrays."""
    if record["kind"] == "folder":
        return [*record.get("files", {}), FOLDER_RECORD], ()
    consolidated = read_json(path / STORE_RECORD).get("consolidated_metadata")
    nodes = consolidated.get("metadata") if isinstance(consolidated, dict) else None
    if not isinstance(nodes, dict):
        return [STORE_RECORD], ()
    arrays = [name for name, node in nodes.items() if isinstance(node, dict) and node.get("node_type") == "array"]
    return [STORE_RECORD, *(f"{name}/{STORE_RECORD}" for name in nodes)], arrays
