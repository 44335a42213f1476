"""Describes any store or output folder, finished or in progress, from its metadata alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aligncut_cli.console import Console, format_table, readable_bytes
from aligncut_cli.controls import title_with_controls
from aligncut_cli.errors import BadInput
from aligncut_cli.stages.inspect.verify import verify_output
from aligncut_cli.stages.toml import toml_lines
from aligncut_cli.store.files import walk_files
from aligncut_cli.store.place import CREW, RECORD, Place
from aligncut_cli.store.provenance import STORE_RECORD, read_record
from aligncut_cli.store.validate import check_node, check_record, read_json

LONG = ("manifest", "files")
"""Keys of a record that only `--verify` wants: checksums of every chunk or file."""


def describe(path: Path, *, verify: Console | None = None) -> dict[str, Any]:
    """Return what a store is: its record, arrays with shapes and bytes, and how far it is.

    verify : where to show progress, if every chunk and file is to be read and checked too
    raises : BadInput where there is no store, finished or not, or something in it is damaged
    """
    if verify is not None:
        return {**describe(path), "verified": verify_output(path, verify)}
    place = Place(path.with_name(path.name.removesuffix(".wip")))
    if path != place.path and path.exists():
        record = read_record(path)
        if record is None:
            raise BadInput(f"{path} is not an aligncut store", do="Give the path of a store or of an output folder.")
        shown = {key: value for key, value in record.items() if key not in LONG}
        arrays = list(_arrays(path))
        return {"path": str(path), "complete": True, **shown, "arrays": arrays, "bytes": _disk_bytes(path)}
    if not place.path.is_dir():
        raise BadInput(f"no such store: {path}", do="Give the path of a store, finished or in progress.")
    file = place.path / RECORD
    try:
        record = check_record(read_json(file), file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadInput(f"{place.path} holds no record", do="Run its command again.") from error
    done: dict[str, int] = {}
    for marker in place.markers.glob("*") if place.is_resumable(record["digest"]) else ():
        phase = marker.name.rpartition(".")[0]
        done[phase] = done.get(phase, 0) + 1
    return {
        "path": str(path),
        "complete": False,
        **record,
        "done": done,
        "workers": _read_crew(place.path),
        "arrays": list(_arrays(place.staging)),
        "bytes": _disk_bytes(place.path),
    }


def _read_crew(place: Path) -> dict[str, Any]:
    """Return who computes there and has done how much; nothing where no workers do."""
    try:
        return read_json(place / CREW)
    except (BadInput, OSError):
        return {}


def _arrays(path: Path) -> Iterator[dict[str, Any]]:
    """Give name, shape, dtype, dimensions, chunk shape and stored bytes of every array."""
    files = sorted(entry.path for entry in walk_files(path) if entry.name == STORE_RECORD) if path.is_dir() else []
    for file in map(Path, files):
        node = read_json(file)
        if node.get("node_type") == "array":
            check_node(node, file)
            yield {
                "name": file.parent.relative_to(path).as_posix(),
                "shape": node["shape"],
                "dtype": node["data_type"],
                "dimensions": node.get("dimension_names"),
                "chunks": node["chunk_grid"]["configuration"]["chunk_shape"],
                "bytes": _disk_bytes(file.parent),
            }


def _disk_bytes(path: Path) -> int:
    return sum(entry.stat(follow_symlinks=False).st_size for entry in walk_files(path))


def as_text(found: dict[str, Any]) -> str:
    """Lay a description out in lines of at most about 80 columns; what a run said stands as it was said."""
    lines = [
        f"{found['path']}: {found['kind']} of `aligncut {found['stage']}`, "
        f"{'complete' if found['complete'] else 'not finished'}, {readable_bytes(found['bytes'])}"
    ]
    if found.get("controls"):
        lines.append(title_with_controls("", found["controls"]))
    if not found["complete"]:
        done = ", ".join(f"{count:,} {phase}" for phase, count in sorted(found["done"].items())) or "nothing"
        lines.append(f"blocks done: {done}. Its command, typed again, goes on from there.")
        if found["workers"]:
            shares = found["workers"].get("workers", {})
            done = ", ".join(f"{name} {count}" for name, count in shares.items()) or "none yet"
            lines.append(f"workers of {found['workers'].get('scheduler', '?')}, blocks by each: {done}")
    if found.get("models"):
        lines.append(f"models: {', '.join(found['models'])}")
    lines += [f"input:  {item['path']} ({item['kind']})" for item in found["inputs"]]
    software = found.get("software", {})
    if software:
        lines.append(
            f"made:   {found.get('created', '?')} by aligncut {software.get('aligncut', '?')}, "
            f"torch {software.get('torch', '?')}"
        )
    lines.append("")
    lines.append(format_table(["parameter", "value"], [[k, _value(v)] for k, v in found["params"].items()]))
    for text in (*found.get("said", ()), *(f"warning: {text}" for text in found.get("warned", ()))):
        lines += ["", text]
    summary = {k: v for k, v in found.get("summary", {}).items() if not isinstance(v, dict | list)}
    if summary:
        lines += ["", format_table(["result", "value"], [[k, _value(v)] for k, v in summary.items()])]
    if found["arrays"]:
        rows = [
            [
                item["name"],
                item["dtype"] if isinstance(item["dtype"], str) else item["dtype"].get("name", "?"),
                " x ".join(f"{n} {d}" for n, d in zip(item["shape"], item["dimensions"] or [], strict=False)),
                readable_bytes(item["bytes"]),
            ]
            for item in found["arrays"]
        ]
        lines += ["", format_table(["array", "type", "shape", "stored"], rows)]
    if "verified" in found:
        checked = found["verified"]
        lines += ["", f"verified: {checked['files']:,} files of {readable_bytes(checked['bytes'])} are undamaged"]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return "-" if value is None else f"{value:,}" if type(value) is int else str(value)


def params_as_toml(found: dict[str, Any]) -> str:
    """Write the parameters as a TOML table that --config reads back."""
    return "\n".join([f"[{found['stage']}]", *toml_lines(found["params"])])
