"""SHA-256 of files and of JSON values, which say what went into a result."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from aligncut_cli.errors import BadInput


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path, *, what: str = "", do: str = "Check the path and its permissions.") -> str:
    """Return the SHA-256 of a file's bytes.

    what   : what the file is, for the message
    raises : BadInput where it cannot be read
    """
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # would be read for ever
            raise BadInput(f"{path} is a pipe or device, not a file", do=do)
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInput(f"cannot read {what}{' ' if what else ''}{path}: {reason}", do=do) from error
