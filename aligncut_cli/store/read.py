"""Opens finished stores of any kind and reads them with every fault named: array, chunk and what to do."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.store.provenance import SCHEMA, InputRecord, read_record
from aligncut_cli.store.run import wip_path

if TYPE_CHECKING:
    import numpy as np
    import zarr

    from aligncut_cli.store.nodes import NodeAxes

T = TypeVar("T")


def read_piped_path(argument: str) -> Path:
    """Return a path given as an argument; `-` reads one line from standard input, waiting for it."""
    if argument != "-":
        return Path(argument)
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("`-` reads a path from a pipe, and standard input is a terminal", do="Give the path itself.")
    line = sys.stdin.readline().strip()
    if not line:
        raise BadInput(
            "no path came through the pipe",
            why="The command before it has failed or printed nothing.",
            do="Look at its message above; when it has been mended, the same pipeline goes on where it stopped.",
        )
    return Path(line)


class Store:
    """A finished store; opening it reads one small file, arrays are opened when they are asked for."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path, self.record = path, record

    @property
    def kind(self) -> str:
        """Return the kind of the store: features, eigs, ..."""
        return str(self.record["kind"])

    @property
    def as_input(self) -> InputRecord:
        """Return what a later stage records of this store."""
        return InputRecord(str(self.path.resolve()), self.kind, self.record["digest"])

    @cached_property
    def group(self) -> zarr.Group:
        """Return the Zarr group, read-only."""
        import zarr

        return zarr.open_group(self.path, mode="r", use_consolidated=True)

    @cached_property
    def axes(self) -> NodeAxes:
        """Return the node axes of a store whose models have them."""
        from aligncut_cli.store.nodes import ModelAxes, NodeAxes

        models = []
        for name in self.record["models"]:
            attributes: dict[str, Any] = self._model_group(name).attrs.asdict()
            models.append(
                ModelAxes(
                    name=name,
                    layers=tuple(attributes["layers"]),
                    n_images=attributes["n_images"],
                    n_tokens=attributes["n_tokens"],
                    grid=(attributes["grid"][0], attributes["grid"][1]),
                    class_token=attributes["class_token"],
                    attributes=attributes,
                )
            )
        return NodeAxes(tuple(models))

    def _model_group(self, name: str) -> zarr.Group:
        import zarr

        node = self.group.get(name)
        if not isinstance(node, zarr.Group):
            raise BadInput(f"{self.path} has lost its group {name!r}", do="Make the store again.")
        return node

    def has(self, name: str) -> bool:
        """Return whether an array or group is there."""
        return name in self.group

    def names(self, group: str) -> list[str]:
        """Return the names of the arrays in a group, sorted; none where the group is missing."""
        import zarr

        node = self.group.get(group)
        return sorted(node.array_keys()) if isinstance(node, zarr.Group) else []

    def array(self, name: str) -> zarr.Array[Any]:
        """Return an array by its path in the store."""
        import zarr

        node = self.group.get(name)
        if not isinstance(node, zarr.Array):
            raise BadInput(f"{self.path} has no array {name!r}", do=f"Look with: aligncut inspect {self.path}")
        return node

    def read(self, name: str, selection: Any = ...) -> np.ndarray[Any, Any]:
        """Read part of an array; a missing, truncated or altered chunk is an error that names it.

        selection : slices and integers per axis, as for numpy; or `...`
        """
        return read_array(self.path, self.array(name), selection)


def open_store(argument: str | Path, *kinds: str) -> Store:
    """Open a finished store of one of these kinds; reads one small file and does not import zarr.

    raises : BadInput where it is missing, unfinished, of another kind or written by a later aligncut
    """
    path = Path(argument)
    wanted = " or ".join(kinds) or "aligncut"
    if not path.exists():
        if wip_path(path).exists():
            raise BadInput(
                f"{path} is not finished", do=f"Run its command again; see how far it is: aligncut inspect {path}"
            )
        raise BadInput(f"no such store: {path}", do=f"Give the path of a {wanted} store.")
    record = read_record(path)
    if record is None:
        raise BadInput(f"{path} is not an aligncut store", do=f"Give the path of a {wanted} store.")
    if record.get("schema", 0) > SCHEMA:
        raise BadInput(f"{path} was written by a later version of aligncut", do="Upgrade: pip install -U aligncut")
    if kinds and record.get("kind") not in kinds:
        raise BadInput(f"{path} holds {record.get('kind')}, not {wanted}", do=f"Look with: aligncut inspect {path}")
    return Store(path, record)


def collect_controls(*stores: Store | None) -> list[str]:
    """Return the controls of the stores that something is made of, for its own record; None is an input not given."""
    return sorted({str(name) for store in stores if store is not None for name in store.record.get("controls", [])})


def read_array(path: Path, array: zarr.Array[Any], selection: Any) -> np.ndarray[Any, Any]:
    """Read a selection and name the chunk where that fails; see `Store.read`."""
    import numpy as np

    missing = next((chunk for chunk in _chunk_files(path, array, selection) if not chunk.exists()), None)
    if missing is None:
        try:
            return np.asarray(array[selection])
        except (ValueError, RuntimeError, OSError) as error:
            raise _damaged(path, array, selection, error) from error
    raise BadInput(
        f"{path}: array {array.name!r} has lost a chunk: {missing.relative_to(path)}",
        do="The store is damaged. Make it again, with --overwrite.",
    )


def _damaged(path: Path, array: zarr.Array[Any], selection: Any, error: Exception) -> BadInput:
    """Find which chunk of a failed read is at fault."""
    for coordinates in _chunk_coordinates(array, selection):
        part = tuple(
            slice(i * size, min((i + 1) * size, length))
            for i, size, length in zip(coordinates, array.chunks, array.shape, strict=True)
        )
        try:
            array[part]
        except (ValueError, RuntimeError, OSError) as fault:
            chunk = _chunk_file(path, array, coordinates)
            return BadInput(
                f"{path}: array {array.name!r} has a damaged chunk: {chunk.relative_to(path)}",
                why=str(fault),
                do="The store is damaged. Make it again, with --overwrite.",
            )
    return BadInput(f"{path}: array {array.name!r} cannot be read: {error}", do="Make the store again.")


def _chunk_coordinates(array: zarr.Array[Any], selection: Any) -> Iterator[tuple[int, ...]]:
    items = (slice(None),) * array.ndim if selection is Ellipsis else selection
    items = items if isinstance(items, tuple) else (items,)
    items = (*items, *(slice(None),) * (array.ndim - len(items)))
    ranges = []
    for item, size, length in zip(items, array.chunks, array.shape, strict=True):
        start, stop, _ = item.indices(length) if isinstance(item, slice) else (int(item), int(item) + 1, 1)
        ranges.append(range(start // size, -(-stop // size)) if stop > start else range(0))
    return itertools.product(*ranges)


def _chunk_file(path: Path, array: zarr.Array[Any], coordinates: tuple[int, ...]) -> Path:
    return path / array.path / array.metadata.encode_chunk_key(coordinates)


def _chunk_files(path: Path, array: zarr.Array[Any], selection: Any) -> Iterator[Path]:
    return (_chunk_file(path, array, coordinates) for coordinates in _chunk_coordinates(array, selection))


def read_ahead(thunks: Iterable[Any], *, depth: int = 2) -> Iterator[Any]:
    """Call functions in a background thread, in order, `depth` of them ahead of the consumer."""
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Any] = []
        try:
            for thunk in thunks:
                waiting.append(pool.submit(thunk))
                if len(waiting) > depth:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
