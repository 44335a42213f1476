"""Opens finished stores of any kind and reads them with every fault named: array, chunk and what to do."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aligncut_cli.errors import AlignCutError, BadInput, UsageError
from aligncut_cli.store.chunks import CHECKSUM_BYTES, chunk_grid, read_array, unpack_checksums
from aligncut_cli.store.place import wip_path
from aligncut_cli.store.provenance import STORE_RECORD, InputRecord, read_record, record_file
from aligncut_cli.store.validate import (
    AGAIN,
    GRAPH_KINDS,
    check_array,
    check_model,
    check_node,
    find_declared,
    is_kind,
    read_json,
)

if TYPE_CHECKING:
    import numpy as np
    import zarr

    from aligncut_cli.store.kinds.base import AnyStore
    from aligncut_cli.store.nodes import NodeAxes

T = TypeVar("T")

FINITE_KINDS = ("eigs", "tsne")


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
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._checksums: dict[str, bytes] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross a process boundary as its path and record; the other process opens the arrays for itself."""
        return Store, (self.path, self.record)

    @property
    def kind(self) -> str:
        """Return the kind of the store: features, eigs, ..."""
        return str(self.record["kind"])

    @property
    def as_input(self) -> InputRecord:
        """Return what a later stage records of this store."""
        return InputRecord(str(self.path.resolve()), self.kind, self.record["digest"], files=(record_file(self.path),))

    @cached_property
    def group(self) -> zarr.Group:
        """Return the Zarr group, read-only."""
        import zarr

        with _damage_named(self.path):
            return zarr.open_group(self.path, mode="r", use_consolidated=True)

    @cached_property
    def axes(self) -> NodeAxes:
        """Return the node axes of a store whose models have them."""
        from aligncut_cli.store.nodes import ModelAxes, NodeAxes

        models = []
        for name in self.record["models"]:
            attributes = check_model(self._model_group(name).attrs.asdict(), f"{self.path}, model {name!r}")
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

        node = self._node(name)
        if not isinstance(node, zarr.Group):
            raise BadInput(f"{self.path} has lost its group {name!r}", do="Make the store again.")
        return node

    def _node(self, name: str) -> Any:
        group = self.group
        with _damage_named(self.path):
            return group.get(name)

    def has(self, name: str) -> bool:
        """Return whether an array or group is there."""
        return self._node(name) is not None

    def names(self, group: str) -> list[str]:
        """Return the names of the arrays in a group, sorted; none where the group is missing."""
        import zarr

        node = self._node(group)
        with _damage_named(self.path):
            return sorted(node.array_keys()) if isinstance(node, zarr.Group) else []

    def array(self, name: str) -> zarr.Array[Any]:
        """Return an array by its path in the store, held against what the kind says of it."""
        import zarr

        if name not in self._arrays:
            node = self._node(name)
            if not isinstance(node, zarr.Array):
                raise BadInput(f"{self.path} has no array {name!r}", do=f"Look with: aligncut inspect {self.path}")
            with _damage_named(self.path):
                self._check(name, node)
            self._arrays[name] = node
        return self._arrays[name]

    def _check(self, name: str, array: zarr.Array[Any]) -> None:
        """Refuse an array of another type or shape than its kind, its models and its checksums say."""
        dtype = "str" if array.dtype.kind in "OTU" else str(array.dtype)
        names = getattr(array.metadata, "dimension_names", None)
        declared = check_array(self.kind, name, dtype, names and tuple(map(str, names)), self.path)
        if declared is not None and declared.fields[:1] == ("model",) and self.kind in GRAPH_KINDS:
            model = self.axes[name.partition("/")[0]]
            lengths = {"layer": len(model.layers), "image": model.n_images, "token": model.n_tokens}
            for axis, length in zip(declared.axes, array.shape, strict=True):
                if lengths.get(axis, length) != length:
                    raise BadInput(
                        f"{self.path}: array {name!r} has {length} {axis}s, its model {lengths[axis]}", do=AGAIN
                    )
        own = check_node(read_json(self.path / name / STORE_RECORD), self.path / name)
        if (own["shape"], own["chunk_grid"]["configuration"]["chunk_shape"]) != (list(array.shape), list(array.chunks)):
            raise BadInput(
                f"{self.path}: what zarr.json says of array {name!r} disagrees with the array's own", do=AGAIN
            )
        manifest = self.record.get("manifest", {})
        if manifest:
            try:
                found = unpack_checksums(manifest.get(name, ""))
            except ValueError:
                found = b""
            if len(found) != CHECKSUM_BYTES * math.prod(chunk_grid(array.shape, array.chunks)):
                raise BadInput(f"{self.path}: array {name!r} has not the chunks that its record lists", do=AGAIN)
            self._checksums[name] = found

    def read(self, name: str, selection: Any = ...) -> np.ndarray[Any, Any]:
        """Read part of an array; a missing, truncated, altered or swapped chunk is an error that names it.

        selection : slices and integers per axis, as for numpy; or `...`
        """
        values = read_array(self.path, self.array(name), selection, self._checksums.get(name))
        self._require_finite(name, values)
        return values

    def _require_finite(self, name: str, values: np.ndarray[Any, Any]) -> None:
        """Refuse NaN and infinity in eigenvectors and coordinates of nodes: no stage ever writes them."""
        import numpy as np

        declared = find_declared(self.kind, name) if self.kind in FINITE_KINDS and values.dtype.kind == "f" else None
        if declared is not None and {"token", "sample"} & set(declared.axes) and not np.isfinite(values).all():
            raise BadInput(f"{self.path}: array {name!r} has values that are NaN or infinite", do=AGAIN)


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn whatever Zarr raises over metadata into one error that names the store."""
    try:
        yield
    except (AlignCutError, MemoryError):
        raise
    except Exception as error:
        raise BadInput(
            f"{path}: its metadata are damaged: {str(error) or type(error).__name__:.200}", do=AGAIN
        ) from error


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
    if record["kind"] not in kinds if kinds else not is_kind(record["kind"]):
        raise BadInput(f"{path} holds {record.get('kind')}, not {wanted}", do=f"Look with: aligncut inspect {path}")
    return Store(path, record)


def collect_controls(*stores: AnyStore | None) -> list[str]:
    """Return the controls of the stores that something is made of, for its own record; None is an input not given."""
    return sorted({str(name) for store in stores if store is not None for name in store.record.get("controls", [])})


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
