"""The one validator of what comes from outside as JSON: records and the metadata of arrays, held against the kinds."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from aligncut_cli.errors import BadInput

if TYPE_CHECKING:
    from aligncut_cli.store.kinds.base import Array

SCHEMA = 1
FOLDER_KIND = "folder"
SURROGATES = re.compile("[\ud800-\udfff]")
GRAPH_KINDS = ("features", "eigs", "tsne", "segments")
"""Kinds whose models' groups carry the axes of nodes."""
AGAIN = "It was edited or damaged. Remove it and make it again."
Check = Callable[[Any], bool]


class Table(dict[str, Any]):
    """A part of a record; a key that it should have and has not is an error that names it."""

    where = ""

    def __missing__(self, key: str) -> NoReturn:
        raise BadInput(f"{self.where}: its record lacks {key!r}", do=AGAIN)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    raises : BadInput where it is none, or holds numbers that JSON has not; FileNotFoundError, NotADirectoryError
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise BadInput(f"{file} is not readable: it is no file", do=AGAIN)
        content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (FileNotFoundError, NotADirectoryError, BadInput):
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{file} is not readable: {error or type(error).__name__}", do=AGAIN) from error
    if not isinstance(content, dict):
        raise BadInput(f"{file} is not readable: it holds no table", do=AGAIN)
    return content


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")


def is_text(value: Any) -> bool:
    """Return whether it is text that can be printed and written."""
    return isinstance(value, str) and (value.isascii() or not SURROGATES.search(value))


def is_count(value: Any) -> bool:
    """Return whether it is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _list_of(check: Check, length: int | None = None) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value)) and length in (None, len(value))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_input(value: Any) -> bool:
    return isinstance(value, dict) and all(is_text(value.get(key)) for key in ("path", "kind", "digest"))


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_text, value.values()))


NAMES, NUMBERS, PAIR = _list_of(is_text), _list_of(is_count), _list_of(is_count, 2)
RECORD: Mapping[str, tuple[Check, str]] = {
    "schema": (lambda value: is_count(value) and value > 0, "a whole number"),
    "kind": (is_text, "a kind of store"),
    "stage": (is_text, "text"),
    "version": (is_count, "a whole number"),
    "digest": (is_text, "text"),
    "params": (_is_table, "a table"),
    "inputs": (_list_of(_is_input), "a list of tables with path, kind and digest"),
}
"""What every record has, and what that must be."""
OPTIONAL: Mapping[str, tuple[Check, str]] = {
    "models": (NAMES, "a list of names"),
    "extra": (_is_table, "a table"),
    "summary": (_is_table, "a table"),
    "said": (NAMES, "a list of texts"),
    "warned": (NAMES, "a list of texts"),
    "runtime": (_is_table, "a table"),
    "software": (_is_texts, "a table of texts"),
    "created": (is_text, "text"),
    "seed": (lambda value: value is None or is_count(value), "a whole number"),
    "controls": (NAMES, "a list of names"),
    "groups": (NAMES, "a list of names"),
    "classes": (NAMES, "a list of names"),
    "runs": (NAMES, "a list of names"),
    "masks": (NAMES, "a list of names"),
    "towers": (NAMES, "a list of names"),
    "categories": (NAMES, "a list of names"),
    "candidates": (NUMBERS, "a list of numbers"),
    "bifurcations": (_list_of(_is_table), "a list of tables"),
    "dims": (is_count, "a whole number"),
    "responses": (_is_table, "a table"),
    "files": (_is_texts, "a table of texts"),
    "manifest": (_is_texts, "a table of texts"),
}


def check_record(record: Any, where: Path) -> dict[str, Any]:
    """Return a record that is what a record must be.

    where  : the file that it was read from
    raises : BadInput that names the key, or says that a later aligncut wrote it
    """
    if not isinstance(record, dict):
        raise BadInput(f"{where}: its record is no table", do=AGAIN)
    schema = record.get("schema")
    if is_count(schema) and schema > SCHEMA:  # type: ignore[operator]
        raise BadInput(f"{where.parent} was written by a later version of aligncut", do="pip install -U aligncut")
    _require(record, RECORD, where, "record")
    _require({key: record[key] for key in OPTIONAL if key in record}, OPTIONAL, where, "record", optional=True)
    checked = Table({key: Table(value) if key in ("params", "extra") else value for key, value in record.items()})
    for part in (checked, checked["params"], checked.get("extra")):
        if isinstance(part, Table):
            part.where = str(where.parent)
    return checked


MODEL: Mapping[str, tuple[Check, str]] = {
    "layers": (lambda value: NUMBERS(value) and len(set(value)) == len(value) > 0, "a list of different numbers"),
    "n_images": (lambda value: is_count(value) and value > 0, "a number above 0"),
    "n_tokens": (lambda value: is_count(value) and value > 0, "a number above 0"),
    "grid": (lambda value: PAIR(value) and min(value) > 0, "two numbers above 0"),
    "class_token": (lambda value: isinstance(value, bool), "true or false"),
}
"""What the group of a model says of its nodes."""


def check_model(attributes: Any, where: str) -> dict[str, Any]:
    """Return the attributes of a model's group, which give the axes of its nodes."""
    checked: dict[str, Any] = attributes if isinstance(attributes, dict) else {}
    _require(checked, MODEL, where, "description")
    height, width = checked["grid"]
    if checked["n_tokens"] > height * width + checked["class_token"]:
        raise BadInput(f"{where}: it has {checked['n_tokens']} tokens on a grid of {height} x {width}", do=AGAIN)
    return checked


def check_node(node: Mapping[str, Any], where: object) -> Mapping[str, Any]:
    """Return the metadata of an array as its zarr.json gives them, if they have the shape of such."""
    grid = node.get("chunk_grid")
    inner = grid.get("configuration") if isinstance(grid, dict) else None
    chunks = inner.get("chunk_shape") if isinstance(inner, dict) else None
    shape, names, dtype = node.get("shape"), node.get("dimension_names"), node.get("data_type")
    good = NUMBERS(shape) and NUMBERS(chunks) and len(shape) == len(chunks) and 0 not in chunks  # type: ignore[arg-type, operator]
    good = good and (names is None or _list_of(is_text, len(shape))(names))  # type: ignore[arg-type]
    if not good or not (is_text(dtype) or (isinstance(dtype, dict) and is_text(dtype.get("name")))):
        raise BadInput(f"{where}: these are no metadata of an array", do=AGAIN)
    return node


def check_array(kind: str, name: str, dtype: str, axes: tuple[str, ...] | None, where: object) -> Array | None:
    """Hold an array against its declaration; arrays that the kind has not are left alone.

    name   : its path in the store
    dtype  : as numpy calls it; `str` for text
    axes   : names of its dimensions
    returns: the declaration
    """
    declared = find_declared(kind, name)
    if declared is not None and (dtype, axes) != (declared.dtype, declared.axes):
        raise BadInput(
            f"{where}: array {name!r} is {dtype} over {', '.join(axes or ())}, "
            f"expected {declared.dtype} over {', '.join(declared.axes)}",
            do=AGAIN,
        )
    return declared


def is_kind(name: str) -> bool:
    """Return whether there is such a kind of output."""
    from aligncut_cli.store.kinds.every import KINDS

    return name in KINDS or name == FOLDER_KIND


@cache
def find_declared(kind: str, name: str) -> Array | None:
    """Return which of a kind's arrays has this path; of several the one with the fewest names to fill in."""
    from aligncut_cli.store.kinds.every import KINDS

    found = [array for array in KINDS[kind].arrays if _pattern(array.name).fullmatch(name)] if kind in KINDS else []
    return min(found, key=lambda array: len(array.fields), default=None)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile("[^/]+".join(map(re.escape, re.split(r"\{[^}]*\}", name))))


def _require(
    values: Mapping[str, Any],
    wanted: Mapping[str, tuple[Check, str]],
    where: object,
    what: str,
    *,
    optional: bool = False,
) -> None:
    for key, (check, expected) in wanted.items():
        if key not in values and optional:
            continue
        if key not in values or not check(values[key]):
            found = repr(values[key]) if key in values else "nothing"
            raise BadInput(f"{where}: `{key}` of its {what} is {found:.60}, expected {expected}", do=AGAIN)
