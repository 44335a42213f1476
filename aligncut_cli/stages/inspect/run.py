"""Describes any store or output folder, finished or in progress, from its metadata alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aligncut_cli.console import format_table, readable_bytes
from aligncut_cli.controls import title_with_controls
from aligncut_cli.errors import BadInput
from aligncut_cli.store.provenance import read_record
from aligncut_cli.store.run import wip_path


def describe(path: Path) -> dict[str, Any]:
    """Return what a store is: its record, arrays with shapes and bytes, and how far it is.

    raises : BadInput where there is no store, finished or not
    """
    wip = path if path.name.endswith(".wip") else wip_path(path)
    if path != wip and path.exists():
        record = read_record(path)
        if record is None:
            raise BadInput(f"{path} is not an aligncut store", do="Give the path of a store or of an output folder.")
        arrays = list(_arrays(path))
        return {"path": str(path), "complete": True, **record, "arrays": arrays, "bytes": _disk_bytes(path)}
    if not wip.exists():
        raise BadInput(f"no such store: {path}", do="Give the path of a store, finished or in progress.")
    try:
        record = json.loads((wip / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{wip} holds no readable record: {error}", do="Run its command again.") from error
    done: dict[str, int] = {}
    for marker in (wip / "done").glob("*"):
        phase = marker.name.rpartition(".")[0]
        done[phase] = done.get(phase, 0) + 1
    return {
        "path": str(path),
        "complete": False,
        **record,
        "done": done,
        "arrays": list(_arrays(wip / "store")),
        "bytes": _disk_bytes(wip),
    }


def _arrays(path: Path) -> Iterator[dict[str, Any]]:
    """Give name, shape, dtype, dimensions, chunk shape and stored bytes of every array."""
    for file in sorted(path.rglob("zarr.json")):
        try:
            node = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"{file} is not readable: {error}", do="The store is damaged: make it again.") from error
        if node.get("node_type") == "array":
            yield {
                "name": file.parent.relative_to(path).as_posix(),
                "shape": node["shape"],
                "dtype": node["data_type"],
                "dimensions": node.get("dimension_names"),
                "chunks": node["chunk_grid"]["configuration"]["chunk_shape"],
                "bytes": _disk_bytes(file.parent),
            }


def _disk_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def as_text(found: dict[str, Any]) -> str:
    """Lay a description out in lines, at most about 80 columns wide."""
    lines = [
        f"{found['path']}: {found['kind']} of `aligncut {found['stage']}`, "
        f"{'complete' if found['complete'] else 'not finished'}, {readable_bytes(found['bytes'])}"
    ]
    if found.get("controls"):
        lines.append(title_with_controls("", found["controls"]))
    if not found["complete"]:
        done = ", ".join(f"{count:,} {phase}" for phase, count in sorted(found["done"].items())) or "nothing"
        lines.append(f"blocks done: {done}. Its command, typed again, goes on from there.")
    if found.get("models"):
        lines.append(f"models: {', '.join(found['models'])}")
    lines += [f"input:  {item['path']} ({item['kind']})" for item in found["inputs"]]
    software = found.get("software", {})
    if software:
        lines.append(
            f"made:   {found['created']} by aligncut {software['aligncut']}, torch {software.get('torch', '?')}"
        )
    lines.append("")
    lines.append(format_table(["parameter", "value"], [[k, _value(v)] for k, v in found["params"].items()]))
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
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return "-" if value is None else f"{value:,}" if type(value) is int else str(value)


def params_as_toml(found: dict[str, Any]) -> str:
    """Write the parameters as a TOML table that --config reads back."""
    lines = [f"[{found['stage']}]"]
    for name, value in found["params"].items():
        if value is not None:
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines)
