"""Reads the pickled label dictionaries that Algonauts ships as .npy, and nothing else a pickle can do."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np

from aligncut_cli.errors import BadInput
from aligncut_cli.images.guard import reading, require_file

MAX_BYTES = 1 << 20


class _Stub:
    """Stands in for a numpy array, scalar or dtype; numpy itself never sees what the file claims."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: tuple[object, ...] = ()


class _Array(_Stub):
    pass


class _Scalar(_Stub):
    pass


class _DType(_Stub):
    pass


def _encode(text: str, _encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
}


# The pure-Python unpickler on purpose: the C one can be made to allocate gigabytes by a ten-byte file,
# and its BUILD step cannot be overridden.
_PythonUnpickler: Any = cast(Any, pickle)._Unpickler


class _LabelUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Builds dictionaries, lists, tuples, strings and integers, and stubs for numpy's objects."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def find_class(self, module: str, name: str) -> object:
        """Look up an allowed name; everything else is refused."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _Stub) or not isinstance(state, tuple):
            raise pickle.UnpicklingError("it sets the state of an object that is not an array")
        target.state = state

    dispatch[pickle.BUILD[0]] = _build


def read_label_mapping(path: Path) -> dict[int, str]:
    """Read {label: name} from `mapping_*.npy`, a zero-dimensional array that holds one pickled dict.

    path    : the file, at most 1 MB
    returns : integer labels to names
    """
    require_file(path, do="Check that roi_masks/ holds one mapping_*.npy per kind of ROI.")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: is larger than 1 MB, so it is not a mapping of labels to names.")
    what = "a plain dictionary of labels to names; of a pickle only integers, strings and dictionaries are, for safety"
    with reading(path, what, do="Fetch it again, or write it with numpy.save(path, {0: 'Unknown', 1: 'V1v'})."):
        content = _unpickle_npy(path.read_bytes())
        return {_to_int(key): _to_str(value) for key, value in _to_dict(content).items()}


def _unpickle_npy(data: bytes) -> object:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = read_header[version](stream)
    if shape != () or not dtype.hasobject:
        raise ValueError(f"it holds an array of shape {shape} and dtype {dtype}")
    return _LabelUnpickler(stream, encoding="latin1").load()


def _to_dict(content: object) -> dict[object, object]:
    """Unwrap the 0-d object array: its state ends in the list of its one element."""
    if isinstance(content, _Array):
        elements = content.state[-1]
        if not isinstance(elements, list) or len(elements) != 1:
            raise TypeError("its array does not hold one object")
        content = elements[0]
    if not isinstance(content, dict):
        raise TypeError("it holds no dictionary")
    return content


def _to_int(value: object) -> int:
    if isinstance(value, _Scalar):
        code, order, data = _open_scalar(value)
        if code[0] not in "iu" or code[1:] not in ("1", "2", "4", "8") or len(data) != int(code[1:]):
            raise TypeError("a label is not an integer")
        return int.from_bytes(data, order, signed=code[0] == "i")
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a label is not an integer")
    return value


def _to_str(value: object) -> str:
    if isinstance(value, _Scalar):
        code, order, data = _open_scalar(value)
        if code[0] != "U":
            raise TypeError("a name is not a string")
        return data.decode("utf-32-be" if order == "big" else "utf-32-le").rstrip("\0")
    if not isinstance(value, str):
        raise TypeError("a name is not a string")
    return value


def _open_scalar(value: _Scalar) -> tuple[str, Literal["little", "big"], bytes]:
    """Return the type code, byte order and bytes of a pickled numpy scalar."""
    dtype, data = value.arguments
    if not isinstance(dtype, _DType) or not isinstance(data, bytes) or not isinstance(dtype.arguments[0], str):
        raise TypeError("it holds a scalar that is neither a number nor a string")
    return dtype.arguments[0], "big" if dtype.state[1] == ">" else "little", data
