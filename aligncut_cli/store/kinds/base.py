"""What a kind of store is made of: arrays that are declared once, and the reading of stores whose nodes have axes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray

    from aligncut_cli.store.nodes import Block, ModelAxes, NodeAxes, Slot

Sizes = Mapping[str, int]
PER_BLOCK = "images per block"
"""The size that says how many images of a model one chunk holds."""


class AnyStore(Protocol):
    """What the readers here need of an opened store, which itself is held against the kinds (`store/read.py`)."""

    path: Path
    record: dict[str, Any]

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def as_input(self) -> Any: ...  # noqa: D102

    @property
    def group(self) -> zarr.Group: ...  # noqa: D102

    @property
    def axes(self) -> NodeAxes: ...  # noqa: D102

    def has(self, name: str) -> bool: ...  # noqa: D102

    def names(self, group: str) -> list[str]: ...  # noqa: D102

    def array(self, name: str) -> zarr.Array[Any]: ...  # noqa: D102

    def read(self, name: str, selection: Any = ...) -> NDArray[Any]: ...  # noqa: D102


@dataclass(frozen=True)
class Array:
    """One array of a kind of store.

    name  : its path in the store; {model}, {roi}, ... stand for names that differ from store to store
    dtype : as numpy writes it, `str` for text
    axes  : names of its dimensions, in order
    cut   : by axis how long a chunk is, a number or the name of a size; other axes are in one piece
    about : what it holds, with unit or equation
    when  : in which stores of the kind it is; in all where this is empty
    """

    name: str
    dtype: str
    axes: tuple[str, ...]
    cut: Mapping[str, int | str] = field(default_factory=dict)
    about: str = ""
    when: str = ""

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """Return what stands in braces in the name, in order."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.name) if name)

    def at(self, *names: str) -> str:
        """Return the array's path, with names for what stands in braces."""
        return self.name.format(**dict(zip(self.fields, names, strict=True)))

    def create(self, root: zarr.Group, sizes: Sizes, *names: str) -> zarr.Array[Any]:
        """Create it in a store under construction.

        sizes : length of every axis, and the sizes that `cut` names
        """
        from aligncut_cli.store.write import create_array

        chunks = []
        for axis in self.axes:
            cut = self.cut.get(axis, sizes[axis])
            chunks.append(sizes[cut] if isinstance(cut, str) else min(cut, sizes[axis]))
        shape = [sizes[axis] for axis in self.axes]
        dtype: Any = str if self.dtype == "str" else self.dtype
        return create_array(root, self.at(*names), shape=shape, dtype=dtype, dims=self.axes, chunks=chunks)

    def put(self, root: zarr.Group, values: NDArray[Any], *names: str) -> None:
        """Create it as large as some values, in one chunk unless an axis is cut by a number, and write them."""
        array = self.create(root, dict(zip(self.axes, values.shape, strict=True)), *names)
        if values.size:
            array[...] = values


@dataclass(frozen=True)
class Kind:
    """A kind of store: its arrays, in the order in which people read about them."""

    name: str
    arrays: tuple[Array, ...]

    @property
    def groups(self) -> set[str]:
        """Return the names at the root that are the kind's own, so that no model can be called so."""
        return {array.name.partition("/")[0] for array in self.arrays} - {"{model}"}

    @property
    def has_models(self) -> bool:
        """Return whether some of its arrays lie in groups that are called as the models."""
        return any(array.name.startswith("{model}/") for array in self.arrays)


IMAGE_ID = Array("images/id", "str", ("image",), about="what each image is called")
IMAGE_PATH = Array("images/path", "str", ("image",), about="where the photo was")
IMAGE_HEIGHT = Array("images/height", "int32", ("image",), about="of the upright photo, pixels")
IMAGE_WIDTH = Array("images/width", "int32", ("image",), about="of the upright photo, pixels")
IMAGES = (IMAGE_ID, IMAGE_PATH, IMAGE_HEIGHT, IMAGE_WIDTH)


def read_images(store: AnyStore) -> dict[str, NDArray[Any]]:
    """Return `images/`: id, path, height and width, in node order."""
    return {array.name.rpartition("/")[2]: store.read(array.at()) for array in IMAGES}


def put_images(root: zarr.Group, images: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> None:
    """Write `images/`: id, path, height and width of every image, in node order; carried from store to store."""
    root.create_group("images", attributes=dict(attributes))
    for array in IMAGES:
        array.put(root, images[array.name.rpartition("/")[2]])


def require_model_group(root: zarr.Group, model: ModelAxes) -> zarr.Group:
    """Return the group of a model, made with the attributes that describe its nodes."""
    if model.name in root:
        return root.require_group(model.name)
    return root.create_group(model.name, attributes=dict(model.attributes))


def model_sizes(model: ModelAxes, images_per_block: int) -> Sizes:
    """Return the sizes of a model's node axes, for `Array.create`."""
    return {
        "layer": len(model.layers),
        "image": model.n_images,
        "token": model.n_tokens,
        PER_BLOCK: images_per_block,
    }


def create_node_arrays(
    root: zarr.Group, axes: NodeAxes, arrays: Iterable[Array], sizes: Sizes, *, images_per_block: Mapping[str, int]
) -> None:
    """Create arrays of every model, in groups that carry the attributes which describe its nodes."""
    wanted = tuple(arrays)
    for model in axes.models:
        require_model_group(root, model)
        for array in wanted:
            array.create(root, {**sizes, **model_sizes(model, images_per_block[model.name])}, model.name)


class NodeStore:
    """A finished store with an array over all nodes: (layer, image, token, ...) of every model."""

    NODES: ClassVar[Array]

    def __init__(self, store: AnyStore) -> None:
        self.store = store

    @property
    def axes(self) -> NodeAxes:
        """Return the node axes."""
        return self.store.axes

    def images(self) -> dict[str, NDArray[Any]]:
        """Return `images/`: id, path, height and width, in node order."""
        return read_images(self.store)

    @cached_property
    def ids(self) -> list[str]:
        """Return the id of every image, in node order."""
        return [str(name) for name in self.store.read(IMAGE_ID.at())]

    @property
    def grouping(self) -> str:
        """Return `all`, `model` or `layer`: which nodes share one graph or map."""
        asked = self.store.record["params"].get("group")
        named: list[str] = self.store.record.get("groups", ["all"])
        if asked is not None or named == ["all"]:
            return str(asked or "all")
        return "model" if set(named) <= set(self.axes.names) else "layer"

    @cached_property
    def groups(self) -> list[tuple[str, list[Slot]]]:
        """Return (name, slots) of each graph or map."""
        return self.axes.groups(self.grouping)

    @cached_property
    def images_per_chunk(self) -> dict[str, int]:
        """Return how many images one chunk of each model holds."""
        return {name: int(self.store.array(self.NODES.at(name)).chunks[1]) for name in self.axes.names}

    def read_block(self, block: Block) -> NDArray[Any]:
        """Read (image, token, ...) of a block, the class token included."""
        return self.store.read(self.NODES.at(block.slot.model), block.select())

    def patches(
        self, model: str, images: int | slice, *, layers: int | slice = slice(None), array: str | None = None
    ) -> NDArray[Any]:
        """Read some images of a model without the class token: (layer, image, patch, ...).

        layers, images : a number instead of a slice drops that axis
        array          : the path of another array with node axes than the store's main one
        """
        values = self.store.read(array or self.NODES.at(model), (layers, images))
        token_axis = isinstance(layers, slice) + isinstance(images, slice)
        return values[(slice(None),) * token_axis + (slice(int(self.axes[model].class_token), None),)]
