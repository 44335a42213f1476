"""Writes values as TOML, which `--config` and Python's tomllib read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def toml_value(value: Any) -> str:
    """Return text, a number, a truth value, or a list or table of these as TOML, which JSON's way of writing is."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(key: str) -> str:
    """Return a key, in quotes where it is more than letters, digits, - and _."""
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else toml_value(key)


def toml_lines(values: Mapping[str, Any]) -> list[str]:
    """Return a line per entry; what is None is left out, as TOML has no such value."""
    return [f"{toml_key(key)} = {toml_value(value)}" for key, value in values.items() if value is not None]
