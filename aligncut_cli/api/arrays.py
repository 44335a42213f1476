"""Tables in whatever holds them: rows of arrays, tensors and Zarr arrays, read block by block, never whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.finite import all_finite

Float = NDArray[np.float32]
# Rows of an array in memory that are worked on at once.
BLOCK_ROWS = 8192


class Table:
    """Rows of an array (..., D), counted in C-order over all axes but the last.

    array  : numpy array, torch tensor or Zarr array (anything with shape, dtype and slicing)
    rows   : (attribute) n, how many rows there are
    width  : (attribute) D
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self.leading, self.width = tuple(int(n) for n in array.shape[:-1]), int(array.shape[-1])
        self.rows = math.prod(self.leading)
        chunks = getattr(array, "chunks", None)
        # A Zarr array is read by its chunks, anything else in runs along its first axis.
        self._steps = (
            tuple(chunks[:-1])
            if isinstance(chunks, tuple)
            else (max(1, BLOCK_ROWS * self.leading[0] // max(self.rows, 1)), *self.leading[1:])
        )

    def blocks(self) -> Iterator[tuple[tuple[slice, ...], Float]]:
        """Yield (slices of the leading axes, rows (n, D) float32) of every block once.

        raises : BadInput where a value is infinite or not a number
        """
        parts = [
            [slice(low, min(low + step, size)) for low in range(0, size, step)]
            for size, step in zip(self.leading, self._steps, strict=True)
        ]
        for where in product(*parts):
            yield where, self._read(where)

    def take(self, rows: NDArray[np.int64]) -> Float:
        """Return some rows, (len(rows), D) float32, reading only the blocks that hold any; `rows` ascends."""
        out = np.empty((len(rows), self.width), dtype=np.float32)
        places = np.unravel_index(rows, self.leading)
        numbers = [place // step for place, step in zip(places, self._steps, strict=True)]
        grid = [-(-size // step) for size, step in zip(self.leading, self._steps, strict=True)]
        block = np.ravel_multi_index(numbers, grid)
        order = np.argsort(block, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
            first = [int(number[members[0]]) * step for number, step in zip(numbers, self._steps, strict=True)]
            ends = [min(low + step, size) for low, step, size in zip(first, self._steps, self.leading, strict=True)]
            where = tuple(slice(low, end) for low, end in zip(first, ends, strict=True))
            local = [place[members] - low for place, low in zip(places, first, strict=True)]
            inside = np.ravel_multi_index(local, [end - low for low, end in zip(first, ends, strict=True)])
            out[members] = self._read(where)[inside]
        return out

    def map(self, function: Callable[[Float], Float], width: int) -> Float:
        """Return a function of all rows, computed block by block: (..., width) float32.

        function : (n, D) -> (n, width)
        """
        out = np.empty((*self.leading, width), dtype=np.float32)
        for where, rows in self.blocks():
            out[where] = function(rows).reshape(*out[where].shape)
        return out

    def _read(self, where: tuple[slice, ...]) -> Float:
        values = self._array[where]
        if isinstance(values, torch.Tensor):
            values = values.detach().to("cpu", torch.float32).numpy()
        values = np.asarray(values)
        if values.dtype.kind not in "fiub":
            raise BadInput(f"the array holds {values.dtype}, not real numbers", do="Give float16, float32 or float64.")
        rows = values.reshape(-1, self.width)
        if rows.dtype.kind == "f" and not all_finite(rows):
            raise BadInput("the array holds NaN or infinity", do="Leave these rows out, or make the features again.")
        return np.ascontiguousarray(rows, dtype=np.float32)


def open_table(estimator: Any, array: Any, *, reset: bool, at_least: int = 1) -> Table:
    """Check an array for an estimator, as scikit-learn does, and return it as a table.

    array    : (..., D): a list, numpy array, data frame, torch tensor or Zarr array
    reset    : whether the estimator is fitted to it, so that it sets `n_features_in_`
    at_least : rows that are needed
    raises   : ValueError where it has another number of columns than the fitted one, too few rows, NaN or infinity
    """
    streamed = isinstance(array, torch.Tensor) or (hasattr(array, "chunks") and not hasattr(array, "compute"))
    deep = streamed or (isinstance(array, np.ndarray) and array.ndim > 2)
    if not deep:
        return Table(validate_data(estimator, array, reset=reset, dtype="numeric", ensure_min_samples=at_least))
    if len(array.shape) < 2:
        raise BadInput(f"Expected an array (..., channels), got shape {tuple(array.shape)}", do="Give rows.")
    table = Table(array)
    if table.rows < at_least or table.width < 1:
        raise BadInput(f"Found array of shape {tuple(array.shape)}, at least {at_least} row(s) are needed")
    if reset:
        estimator.n_features_in_ = table.width
        vars(estimator).pop("feature_names_in_", None)
    elif table.width != estimator.n_features_in_:
        raise BadInput(
            f"X has {table.width} features, but {type(estimator).__name__} "
            f"is expecting {estimator.n_features_in_} features as input"
        )
    return table


def as_seed(random_state: Any) -> int:
    """Return the seed that scikit-learn's `random_state` stands for: an integer is its own, others draw one."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def plain(value: Any) -> Any:
    """Return numpy's integers as Python's, which parameters are held against."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


class Prepared:
    """Keeps what is made once for many blocks (indices of neighbours) out of copies that are pickled."""

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in dict(state).items() if name != "_prepared"}  # type: ignore[call-overload]
