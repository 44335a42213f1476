"""Reads checkpoints of every format as named tensors, without running what they hold."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from aligncut_cli.errors import BadInput

State = dict[str, torch.Tensor]

# Functions that numpy's own pickles name.
_NUMPY_BUILDERS = (type(np.float64(0)).__reduce__(np.float64(0))[0], np.zeros(0).__reduce__()[0])
# What training scripts keep beside the weights, their command line and scores; none of it runs code.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.dtype,
    np.ndarray,
    *_NUMPY_BUILDERS,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)),
]
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# torch stores its archives uncompressed; what claims to be so much larger than its file is no checkpoint.
_LARGEST_EXPANSION = 4


def read_checkpoint(paths: Sequence[Path], name: str) -> State:
    """Read a checkpoint's tensors by their names; those of nested dicts are joined by dots.

    paths  : its files, several where it is cut into shards
    name   : of the model, for messages
    raises : BadInput where a file is damaged, refused, or holds no tensors
    """
    state: State = {}
    for path in paths:
        state |= _flatten(_read_file(path, name))
    if not state:
        raise BadInput(
            f"the weights of '{name}' hold no tensors: {paths[0]}",
            do="Save the model's state dict: torch.save(model.state_dict(), 'weights.pt')",
        )
    return state


def _flatten(content: Mapping[Any, Any]) -> State:
    state: State = {}
    waiting: list[tuple[str, Mapping[Any, Any]]] = [("", content)]
    seen = set()
    while waiting:
        prefix, mapping = waiting.pop()
        if id(mapping) in seen:  # a dict may hold itself
            continue
        seen.add(id(mapping))
        for key, value in mapping.items():
            if isinstance(key, str) and isinstance(value, torch.Tensor):
                state[prefix + key] = value
            elif isinstance(key, str) and isinstance(value, Mapping):
                waiting.append((f"{prefix}{key}.", value))
    return state


def _read_file(path: Path, name: str) -> Mapping[Any, Any]:
    other = f"Give another file, or try it without weights: --weights {name}=random"
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise BadInput(
            f"the weights of '{name}' cannot be read: {path}", why=error.strerror or str(error), do=other
        ) from error
    # A safetensors file begins with its header's length and the header's brace.
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        try:
            return load_file(path)
        except MemoryError:
            raise
        except Exception as error:  # a parser may raise anything on a broken file
            raise _damaged(path, name, error) from error
    _refuse_archives(path, name, other)
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on unusual pickle protocols; what cannot be read is an error
            content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a parser may raise anything on a broken file
        if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
            raise _refuse_code(path, name, error) from error
        raise _damaged(path, name, error) from error
    if not isinstance(content, Mapping):
        raise BadInput(f"the weights of '{name}' are a {type(content).__name__}, not a state dict: {path}", do=other)
    return content


def _refuse_archives(path: Path, name: str, other: str) -> None:
    """Refuse ZIP archives that are no state dict, and those that claim more than they can hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception:  # no archive, or a damaged one, which the reader will name
        return
    if any(member.filename.endswith("constants.pkl") for member in members):
        converted = f"{path.stem}-state.pt"
        raise BadInput(
            f"the weights of '{name}' are a TorchScript program, not a state dict: {path}",
            why="Reading it would run code from the file. OpenAI's CLIP files are of this kind.",
            do="If you trust it, convert it once:\n"
            + _python(
                "torch.save(torch.jit.load(sys.argv[1], map_location='cpu').state_dict(), sys.argv[2])", path, converted
            )
            + f"\nthen: --weights {name}={converted}",
        )
    if any(member.filename.endswith(".npy") for member in members):
        raise BadInput(
            f"the weights of '{name}' are a NumPy archive: {path}",
            why="Supported are safetensors files and PyTorch state dicts.",
            do=other,
        )
    claimed, held = sum(member.file_size for member in members), path.stat().st_size
    if claimed > _LARGEST_EXPANSION * held + 1_000_000:
        raise BadInput(
            f"the weights of '{name}' claim {claimed:,} bytes in a file of {held:,}: {path}",
            why="PyTorch writes its archives uncompressed, so this is no checkpoint.",
            do=other,
        )


def _refuse_code(path: Path, name: str, error: Exception) -> BadInput:
    named = re.search(r"GLOBAL (\S+)", str(error))
    converted = f"{path.stem}-state.pt"
    return BadInput(
        f"the weights of '{name}' hold more than tensors and are refused: {path}",
        why="Reading them could run code from the file"
        + (f": it names {printable(named[1])}." if named else f" ({first_line(error)})."),
        do="If you trust the file, save its state dict alone, where the classes that it names can be imported:\n"
        + _python(
            "c = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
            "c = c.get('state_dict', c.get('model', c)) if isinstance(c, dict) else c; "
            "c = c.state_dict() if hasattr(c, 'state_dict') else c; "
            "torch.save({k: v for k, v in c.items() if isinstance(v, torch.Tensor)}, sys.argv[2])",
            path,
            converted,
        )
        + f"\nthen: --weights {name}={converted}",
    )


def _python(code: str, *arguments: Any) -> str:
    return f'  python -c "import sys, torch; {code}" ' + " ".join(shlex.quote(str(argument)) for argument in arguments)


def _damaged(path: Path, name: str, error: Exception) -> BadInput:
    return BadInput(
        f"the weights of '{name}' are damaged or cut short: {path}",
        why=first_line(error),
        do=f"Copy or download the file again, then: --weights {name}={path}",
    )


def printable(text: str) -> str:
    """Return text from a file or a library as one may print it: without escape codes and control characters."""
    return "".join(c if c.isprintable() else "?" for c in _ESCAPES.sub("", text))


def first_line(error: BaseException) -> str:
    """Return what an error says first, as one may print it."""
    lines = [printable(line.strip()) for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def some(items: Sequence[str], limit: int = 4) -> str:
    """Name the first of several, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return printable(", ".join(items[:limit])) + more
