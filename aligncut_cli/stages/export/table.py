"""What an export holds: which rows, what each is called, and how blocks of them are read."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import UsageError
from aligncut_cli.params import ExportParams
from aligncut_cli.stages.coordinates import SCORES, name_axis, name_voxel_rois, place_tokens
from aligncut_cli.store.kinds.alignment import ROI
from aligncut_cli.store.kinds.base import IMAGE_ID
from aligncut_cli.store.kinds.features import TOKEN
from aligncut_cli.store.nodes import Block, Slot
from aligncut_cli.store.read import Store

USUAL = {
    "features": ("tokens", "pooled"),
    "alignment": ("scores",),
    "eigs": ("eigvecs",),
    "tsne": ("rgb", "coords"),
    "segments": ("labels",),
    "decoding": ("scores",),
}
"""What is exported of each kind where nothing is asked for, the first that is there."""

EXACT = 2**24
"""Up to here float32 holds every whole number."""


def write_cells(cells: Sequence[object]) -> str:
    """Return one line of CSV without its end, quoted where a cell needs it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


class NodeTable:
    """An array over nodes or images of one or several slots: a row per (model, layer, image, token)."""

    def __init__(self, store: Store, name: str, slots: Sequence[Slot]) -> None:
        self.store, self.name, self.slots = store, name, slots
        models = list(dict.fromkeys(slot.model for slot in slots))
        arrays = {model: store.array(f"{model}/{name}") for model in models}
        self.by_token = "token" in (arrays[models[0]].metadata.dimension_names or ())  # type: ignore[union-attr]
        shapes = {model: array.shape[3 if self.by_token else 2 :] for model, array in arrays.items()}
        if len(set(shapes.values())) > 1:
            widths = ", ".join(f"{model} {math.prod(shape)}" for model, shape in shapes.items())
            raise UsageError(f"the models differ in their columns ({widths})", do="Choose one with --model.")
        width = math.prod(shapes[models[0]])
        self.columns = [name] if shapes[models[0]] == () else [f"{name}_{index}" for index in range(width)]
        self.ids = ("model", "layer", "image", *(("token", "row", "column") if self.by_token else ()))
        self.blocks = store.axes.blocks(slots, {model: int(arrays[model].chunks[1]) for model in models})
        self.n_rows = sum(map(self.n_block_rows, self.blocks))

    def n_block_rows(self, block: Block) -> int:
        """Return how many rows a block has."""
        n_images: int = block.images.stop - block.images.start
        return n_images * (self.store.axes[block.slot.model].n_tokens if self.by_token else 1)

    def read(self, block: Block) -> NDArray[np.float32]:
        """Return (row, column) of a block, images in order and within them tokens."""
        values = self.store.read(f"{block.slot.model}/{self.name}", block.select())
        return np.ascontiguousarray(values.reshape(self.n_block_rows(block), len(self.columns)), dtype=np.float32)

    @cached_property
    def image_ids(self) -> NDArray[Any]:
        """Return the id of every image, (image,) text."""
        return np.array([str(name) for name in self.store.read(IMAGE_ID.at())])

    @cached_property
    def _places(self) -> dict[str, list[NDArray[np.int64]]]:
        """Return token, row and column by model, each (image or 1, token)."""
        kept = {
            slot.model: self.store.read(TOKEN.at(slot.model)) if self.store.has(TOKEN.at(slot.model)) else None
            for slot in self.slots
        }
        return {
            model: [np.atleast_2d(values) for values in place_tokens(self.store.axes[model], chosen)]
            for model, chosen in kept.items()
        }

    def _token_columns(self, block: Block) -> list[NDArray[np.int64]]:
        """Return token, row and column of a block's rows, each (image, token)."""
        shape = (block.images.stop - block.images.start, self.store.axes[block.slot.model].n_tokens)
        places = self._places[block.slot.model]
        return [np.broadcast_to(values[block.images] if len(values) > 1 else values, shape) for values in places]

    def id_columns(self, block: Block) -> list[NDArray[Any]]:
        """Return model, layer, image and, for nodes, token, row and column of a block's rows."""
        rows = self.n_block_rows(block)
        images = self.image_ids[block.images]
        columns = [
            np.full(rows, block.slot.model),
            np.full(rows, block.slot.layer),
            np.repeat(images, rows // len(images)),
        ]
        return [*columns, *(values.ravel() for values in self._token_columns(block))] if self.by_token else columns

    def id_lines(self, block: Block, end: str) -> str:
        """Return the same as lines of CSV; each image's text is joined at once, whatever its number of tokens."""
        slot = [block.slot.model, block.slot.layer]
        starts = [write_cells([*slot, image]) for image in self.image_ids[block.images]]
        if not self.by_token:
            return "".join(start + end for start in starts)
        token, row, column = self._token_columns(block)
        same = bool((token == token[:1]).all())
        lines, tails = [], [""]
        for index, start in enumerate(starts):
            if index == 0 or not same:
                places = zip(token[index], row[index], column[index], strict=True)
                tails = ["", *(f",{t},{r},{c}{end}" for t, r, c in places)]
            lines.append(start.join(tails))
        return "".join(lines)


@dataclass(frozen=True)
class SmallTable:
    """Rows that are read at once: scores, or an array whose last axis is its columns.

    cells  : what each row is, one tuple per row
    values : (row, column)
    """

    name: str
    ids: tuple[str, ...]
    columns: list[str]
    cells: list[tuple[Any, ...]]
    values: NDArray[np.float32]
    blocks: Sequence[Any] = (None,)

    @property
    def n_rows(self) -> int:
        """Return the number of rows."""
        return len(self.values)

    def n_block_rows(self, block: Any) -> int:
        """Return the number of rows, which are one block."""
        return len(self.values)

    def read(self, block: Any) -> NDArray[np.float32]:
        """Return (row, column)."""
        return np.ascontiguousarray(self.values, dtype=np.float32)

    def id_columns(self, block: Any) -> list[NDArray[Any]]:
        """Return the ids of the rows, one array (row,) for each of `ids`."""
        return [np.array([row[index] for row in self.cells]) for index in range(len(self.ids))]

    def id_lines(self, block: Any, end: str) -> str:
        """Return the ids of the rows as lines of CSV."""
        return "".join(write_cells(cells) + end for cells in self.cells)


Table = NodeTable | SmallTable
"""`ids` names the columns that say what a row is, `columns` those of values; rows are read in `blocks`."""


def _score_table(store: Store) -> SmallTable:
    """Return all scores that stand side by side: of every slot of a segments store, of every voxel of an alignment,
    or of every run of a decoding among every number of candidates.
    """
    if store.kind == "decoding":
        return _run_table(store)
    wanted = ("voxel",) if store.kind == "alignment" else ("model", "layer")
    names = [
        name
        for name in store.names(SCORES)
        if store.array(f"{SCORES}/{name}").metadata.dimension_names == wanted  # type: ignore[union-attr]
    ]
    if not names:
        raise UsageError(f"{store.path} holds no scores", do=f"Look with: aligncut inspect {store.path}")
    values = np.stack([store.read(f"{SCORES}/{name}") for name in names], axis=-1)
    if wanted == ("voxel",):
        rois = name_voxel_rois(store) or [""] * len(values)
        return SmallTable(SCORES, ("voxel", "roi"), names, list(enumerate(rois)), values)
    models = {name: index for index, name in enumerate(store.record["models"])}
    slots = store.axes.slots
    rows = values[[models[slot.model] for slot in slots], [slot.position for slot in slots]]
    return SmallTable(SCORES, wanted, names, [(slot.model, slot.layer) for slot in slots], rows)


def _run_table(store: Store) -> SmallTable:
    """Return the scores of a decoding, a row per run and number of candidates; each has columns of its interval."""
    names = store.names(SCORES)
    values = np.concatenate([store.read(f"{SCORES}/{name}") for name in names], axis=2)
    columns = [name + end for name in names for end in ("", "_low", "_high")]
    cells = list(itertools.product(store.record["runs"], store.record["candidates"]))
    return SmallTable(SCORES, ("run", "candidates"), columns, cells, values.reshape(len(cells), len(columns)))


def _whole_table(store: Store, path: str) -> SmallTable:
    """Return an array of any other axes: a row per place on all but its last, the last as columns."""
    array = store.array(path)
    axes = [str(axis) for axis in array.metadata.dimension_names or ()]  # type: ignore[union-attr]
    values = store.read(path)
    if array.dtype.kind in "iu" and (np.abs(values) > EXACT).any():
        raise UsageError(
            f"{path} holds whole numbers above {EXACT:,}, which float32 would round", do="Read it with open_store."
        )
    own = path.rpartition("/")[2]
    if values.ndim == 1:
        values, axes, columns = values[:, None], [*axes, ""], [own]
    else:
        columns = [f"{axes[-1]}_{index}" for index in range(values.shape[-1])]
    model = path.partition("/")[0]
    lengths = dict(zip(axes[:-1], values.shape, strict=False))
    names = [name_axis(store, axis, length, model) or range(length) for axis, length in lengths.items()]
    cells = list(itertools.product(*names))
    return SmallTable(path, tuple(axes[:-1]), columns, cells, values.reshape(len(cells), len(columns)))


def list_arrays(store: Store) -> dict[str, bool]:
    """Return what --array takes of a store, and whether that is over nodes or images.

    These are arrays of every model by their own name, `scores`, and others by their path.
    """
    import zarr

    models = set(store.record["models"])
    found = {}
    for path, node in store.group.members(max_depth=None):
        if isinstance(node, zarr.Array) and node.dtype.kind in "biuf":
            group, _, own = path.partition("/")
            axes = getattr(node.metadata, "dimension_names", None) or ()
            by_node = group in models and tuple(axes[:2]) == ("layer", "image")
            found[own if by_node else path] = by_node
            if group == SCORES:
                found[SCORES] = False
    membership = ROI.name.partition("/")[0] + "/"  # which the ids of voxels name
    return {name: found[name] for name in sorted(found) if not name.startswith(membership)}


def open_table(store: Store, params: ExportParams) -> Table:
    """Return what is to be exported of a store.

    raises : UsageError that lists the arrays where the one asked for is not there
    """
    available = list_arrays(store)
    name = params.array or next((name for name in USUAL.get(store.kind, ()) if name in available), None)
    if name not in available:
        asked = f"has no array {name!r}" if name else "has no usual array to export"
        raise UsageError(f"{store.path} {asked}", do=f"Give --array one of: {', '.join(available)}.")
    if available[name]:
        return NodeTable(store, name, _choose_slots(store, params))
    if params.model is not None or params.layer is not None:
        raise UsageError(
            f"{name} is not chosen by model and layer", do="Leave --model and --layer out; the ids name them."
        )
    return _score_table(store) if name == SCORES else _whole_table(store, name)


def _choose_slots(store: Store, params: ExportParams) -> list[Slot]:
    models = store.axes.names if params.model is None else [store.axes[params.model].name]
    slots = [
        slot
        for slot in store.axes.slots
        if slot.model in models and (params.layer is None or slot.layer == params.layer)
    ]
    if not slots:
        layers = ", ".join(str(layer) for layer in store.axes[models[0]].layers)
        raise UsageError(f"--layer {params.layer} is not among the layers", do=f"Choose one of: {layers}.")
    return slots
