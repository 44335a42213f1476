"""Decodings: which of the held-out images each response retrieves, what that is worth, and what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aligncut_cli.store.kinds.base import IMAGES, PER_BLOCK, Array, Kind, Sizes

if TYPE_CHECKING:
    import numpy as np
    import zarr
    from numpy.typing import NDArray

    from aligncut_cli.store.kinds.base import AnyStore

_RUN = {"run": 1}
FOLD = Array("fold", "int16", ("image",), about="in which an image was held out")
RANK = Array("rank", "int32", ("run", "image"), _RUN, about="place of the seen image among its fold, from 1")
BEST = Array("best", "int32", ("run", "image"), _RUN, about="the retrieved image, by its place in `images/`")
WRONG = Array("wrong", "int32", ("run", "image"), _RUN, about="the nearest wrong image, by its place in `images/`")
MEANINGS = {
    "top1": "share of images that come first among so many candidates",
    "top5": "share that is among the first five",
    "pairwise": "share of wrong images that come after the seen one",
    "median_rank": "median place of the seen image, from 1",
}
SCORES = {
    name: Array(f"scores/{name}", "float64", ("run", "candidates", "bound"), _RUN, about=f"{about}: value, low, high")
    for name, about in MEANINGS.items()
}
CHANCE = {name: Array(f"chance/{name}", "float64", ("candidates",), about="the same by guessing") for name in MEANINGS}
TESTED = ("top1", "top5", "pairwise")
P = {
    name: Array(f"p/{name}", "float64", ("run", "candidates"), _RUN, about="(1 + k) / (1 + n) under exchanged pairs")
    for name in TESTED
}
NULL = {
    name: Array(f"null/{name}", "float64", ("run", "candidates", "exchange"), _RUN, about="the score of every exchange")
    for name in TESTED
}
EVIDENCE = Array(
    "neurons/evidence",
    "float64",
    ("run", "neuron"),
    _RUN,
    about="what each neuron adds to the similarity of the seen image above the mean of all",
)
_SUBSETS = "--neurons"
SIZE = Array("neurons/size", "int32", ("size",), about="neurons in a subset", when=_SUBSETS)
TOP = Array("neurons/top", "float64", ("run", "size"), _RUN, about="top-1 of the most responsive ones", when=_SUBSETS)
RANDOM = Array(
    "neurons/random",
    "float64",
    ("run", "size", "subset"),
    _RUN,
    about="top-1 of random ones",
    when=_SUBSETS,
)
SUBSET_P = Array(
    "neurons/p", "float64", ("run", "size"), _RUN, about="(1 + subsets at least as good) / (1 + subsets)", when=_SUBSETS
)
_CATEGORIES = "--categories"
CATEGORY = {
    name: Array(
        f"category/{name}", "float64", ("run", "bound"), _RUN, about=f"{about}: value, low, high", when=_CATEGORIES
    )
    for name, about in (
        ("right", "share of retrieved images of the seen one's category"),
        ("nearest_wrong", "share of nearest wrong images of the seen one's category"),
    )
}
CATEGORY_CHANCE = {
    name: Array(f"category/{name}_chance", "float64", ("run",), _RUN, about="the same by guessing", when=_CATEGORIES)
    for name in CATEGORY
}
CATEGORY_P = Array(
    "category/p", "float64", ("run",), _RUN, about="of the first of these under exchanged pairs", when=_CATEGORIES
)
MAPS = Array(
    "towers/{tower}/maps",
    "float16",
    ("image", "channel", "row", "column"),
    {"image": PER_BLOCK},
    about="map of every image by the tower that never saw it, less the training images' mean",
    when="--method towers or both",
)
LOOK = Array(
    "towers/{tower}/look",
    "float32",
    ("neuron", "row", "column"),
    about="where each neuron looks: root mean square of its weights over channels and folds",
    when="--method towers or both",
)
REPEAT_RANK = Array(
    "repeats/rank",
    "int32",
    ("image",),
    about="place of the seen image when one half of its repeats is looked for among the other halves, from 1",
    when="responses with repeats",
)
REPEAT_CEILING = Array(
    "repeats/ceiling",
    "float32",
    ("neuron",),
    about="explainable share of the variance of the average over repeats",
    when="responses with repeats",
)
REPEATS = (REPEAT_RANK, REPEAT_CEILING)
SUBSETS = (SIZE, TOP, RANDOM, SUBSET_P)
CATEGORIES = (*CATEGORY.values(), *CATEGORY_CHANCE.values(), CATEGORY_P)
ALWAYS = (FOLD, RANK, BEST, WRONG, *SCORES.values(), *CHANCE.values(), *P.values(), *NULL.values(), EVIDENCE)
KIND = Kind("decoding", (*ALWAYS, *SUBSETS, *CATEGORIES, MAPS, LOOK, *REPEATS, *IMAGES))


def create_decoding(root: zarr.Group, sizes: Sizes, *, more: Iterable[Array], attributes: Mapping[str, Any]) -> None:
    """Create the arrays that every decoding has, and `more`, in a store under construction.

    attributes : names of `runs` and `candidates`, to read the axes of the scores by
    """
    root.create_group("scores", attributes=dict(attributes))
    for array in (*ALWAYS, *more):
        array.create(root, sizes)


class Decoding:
    """A finished decoding store."""

    def __init__(self, store: AnyStore) -> None:
        self.store = store

    @property
    def runs(self) -> list[str]:
        """Return what each run is called."""
        return list(self.store.record["runs"])

    @property
    def towers(self) -> list[str]:
        """Return the names of the runs by towers whose maps are kept."""
        return list(self.store.record.get("towers", []))

    @property
    def candidates(self) -> list[int]:
        """Return among how many candidates each score is; the last folds may have one fewer than `all`."""
        return list(self.store.record["candidates"])

    def has(self, array: Array, *names: str) -> bool:
        """Return whether an array is there."""
        return self.store.has(array.at(*names))

    def read(self, array: Array, *names: str, selection: Any = ...) -> NDArray[np.generic]:
        """Read one of the kind's arrays."""
        return self.store.read(array.at(*names), selection)
