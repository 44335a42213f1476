"""Where weights lie: a file, a part of one, a folder with its configuration, or a folder of the hub's cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligncut_cli.errors import BadInput

HUB_PREFIX = "hf-hub:"
# What the hub's repositories call their weights, the best first.
WEIGHT_NAMES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
CONFIG_NAMES = ("config.json", "preprocessor_config.json", "open_clip_config.json")
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar")


@dataclass(frozen=True)
class WeightSource:
    """Weights on this machine.

    files   : that hold them, several where they are cut into shards
    part    : which of the file's models is meant, by a part of its keys' names; empty where it has one
    configs : what a folder says of its weights
    """

    files: tuple[Path, ...]
    part: str = ""
    configs: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Return what the weights are called in records."""
        return self.files[0].name + (f"::{self.part}" if self.part else "")

    def read_configs(self) -> dict[str, Any]:
        """Return the content of all configurations by file name."""
        return {path.name: read_json(path) for path in self.configs}


def locate_weights(text: str, name: str) -> WeightSource:
    """Find the files that `--weights NAME=TEXT` means.

    text   : FILE, FOLDER, or either with `::PART`
    name   : of the model, for messages
    raises : BadInput where there is none; devices and pipes are no files
    """
    path, part = Path(text), ""
    if not path.exists() and "::" in text:
        before, _, part = text.rpartition("::")
        path = Path(before)
    other = f"Give another file, or try it without: --weights {name}=random"
    what = f"cannot read the weights of '{name}': {path}"
    try:
        if path.is_dir():
            return _locate_in(_snapshot_of(path), part, what, other)
        path.stat()
    except OSError as error:
        raise BadInput(f"{what}: {error.strerror or error}", do=other) from error
    if not path.is_file():
        raise BadInput(f"{what}: it is neither a file nor a folder", do=other)
    return WeightSource((path,), part)


def locate_shards(index: Path) -> tuple[Path, ...]:
    """Return the files that an index of shards names, all beside it."""
    names = read_json(index).get("weight_map", {})
    if not isinstance(names, dict) or not names:
        raise BadInput(f"{index} names no files of weights", do="Copy the folder again.")
    files = tuple(index.parent / Path(str(file)).name for file in sorted(set(map(str, names.values()))))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise BadInput(f"{index.parent} lacks {', '.join(missing[:4])}, named by {index.name}", do="Copy it again.")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not readable JSON: {error}", do="Copy or download it again.") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds no JSON object", do="Copy or download it again.")
    return content


def _snapshot_of(folder: Path) -> Path:
    """Return the files of a repository in the hub's cache: the snapshot that `refs/main` names, or the only one."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return folder
    main = folder / "refs" / "main"
    named = snapshots / Path(main.read_text(encoding="utf-8").strip()).name if main.is_file() else None
    found = sorted(path for path in snapshots.iterdir() if path.is_dir())
    if named in found:
        return snapshots / named.name if named else folder
    if len(found) != 1:
        raise BadInput(f"{folder} holds {len(found)} snapshots", do="Give one of the folders in its snapshots/.")
    return found[0]


def _locate_in(folder: Path, part: str, what: str, other: str) -> WeightSource:
    configs = tuple(folder / name for name in CONFIG_NAMES if (folder / name).is_file())
    indices = sorted(folder.glob("*.index.json"))
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return WeightSource((folder / name,), part, configs)
    if indices:
        return WeightSource(locate_shards(indices[0]), part, configs)
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    if len(found) == 1:
        return WeightSource((found[0],), part, configs)
    why = f"It has several: {', '.join(path.name for path in found[:4])}." if found else "It has no file of weights."
    raise BadInput(f"{what}: which file of this folder is meant?", why=why, do=other)
