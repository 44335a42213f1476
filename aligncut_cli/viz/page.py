"""Encodes what the report's page loads: scripts of data, 8-bit eigenvectors, sheets of small pictures."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PAGE = ("index.html", "style.css", "pieces.js", "draw.js", "charts.js", "tables.js", "map.js", "explore.js", "app.js")
LARGEST = 127
NO_LABEL_GREY = (128, 128, 128)

# Twenty colours that stay apart on photos, in light and in dark; label k takes colour k modulo 20.
LABEL_COLOURS = (
    *("9aa0a6", "e6194b", "3cb44b", "ffe119", "4363d8", "f58231", "911eb4", "46f0f0", "f032e6", "bcf60c"),
    *("fabebe", "008080", "e6beff", "9a6324", "fffac8", "800000", "aaffc3", "808000", "ffd8b1", "000075"),
)


def page_files() -> list[tuple[str, bytes]]:
    """Return the hand-written files of the page: (name, content)."""
    folder = files("aligncut_cli") / "viz" / "page"
    return [(name, (folder / name).read_bytes()) for name in PAGE]


def script(name: str, value: Any) -> str:
    """Write a value as a script that hands it to the page; a page opened from disk can load scripts and no data.

    The text is ASCII, and `</` is broken up, so nothing in it can end a script element.
    """
    content = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("</", "<\\/")
    return f"aligncut.receive({json.dumps(name)},{content});\n"


def pack(values: NDArray[Any]) -> str:
    """Return an array's little-endian bytes as base64."""
    return base64.b64encode(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()).decode()


def quantize_rows(rows: NDArray[np.floating]) -> NDArray[np.int8]:
    """Round each row to 8 bits so that its largest entry becomes 127; cosines between rows survive to about 0.01.

    rows    : (..., C) eigenvector rows; their lengths are lost, a row of zeros stays one
    returns : (..., C)
    """
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    return np.rint(rows / np.where(largest > 0, largest, 1) * LARGEST).astype(np.int8)


def quantize_places(coords: NDArray[np.floating], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.uint16]:
    """Round (..., 2) places on the map to 16 bits between two corners (2,)."""
    extent = np.where(high > low, high - low, 1)
    places: NDArray[np.uint16] = np.rint(np.clip((coords - low) / extent, 0, 1) * 65535).astype(np.uint16)
    return places


def sheet_columns(n_tiles: int) -> int:
    """Return how many tiles stand side by side in a sheet of at most `n_tiles`."""
    return max(1, math.isqrt(n_tiles - 1) + 1) if n_tiles > 0 else 1


def make_sheet(tiles: NDArray[np.uint8], columns: int) -> Image.Image:
    """Lay tiles out row by row; the last row is filled with black.

    tiles : (n, h, w, 3)
    """
    n, h, w, _ = tiles.shape
    rows = -(-n // columns)
    padded = np.zeros((rows * columns, h, w, 3), dtype=np.uint8)
    padded[:n] = tiles
    grid = padded.reshape(rows, columns, h, w, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(np.ascontiguousarray(grid.reshape(rows * h, columns * w, 3)))


def png_bytes(picture: Image.Image) -> bytes:
    """Encode without loss: one pixel is one patch."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def jpeg_bytes(picture: Image.Image, *, quality: int) -> bytes:
    """Encode a photo."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def paint_labels(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return (..., 3) colours of integer labels; below 0 is no label."""
    palette = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in LABEL_COLOURS], dtype=np.uint8)
    return np.where((labels < 0)[..., None], np.array(NO_LABEL_GREY, dtype=np.uint8), palette[labels % len(palette)])


def finite(values: NDArray[np.floating] | Sequence[float], digits: int = 5) -> list[Any]:
    """Return numbers for JSON, to some significant digits; what is not finite becomes null."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim > 1:
        return [finite(row, digits) for row in array]
    return [float(f"{x:.{digits}g}") if math.isfinite(x) else None for x in array.tolist()]
