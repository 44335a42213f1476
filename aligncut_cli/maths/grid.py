"""Where tokens lie on their image: cells of pixels, classes per cell, and values carried from tokens to pixels.

An image is resized to the model's square without cropping, so token (row, column) of an H x W grid covers the
pixels whose centre falls into its cell of the whole image. The class token has no cell and is never passed in here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Grid = tuple[int, int]
Labels = NDArray[np.signedinteger]


def locate_pixels(n_pixels: int, n_tokens: int) -> NDArray[np.intp]:
    """Find the token over each pixel centre along one axis, in whole numbers: floor((y + 1/2) * tokens / pixels).

    returns : (n_pixels,) token positions, never decreasing
    """
    return (2 * np.arange(n_pixels) + 1) * n_tokens // (2 * n_pixels)


def count_classes_per_token(mask: Labels, grid: Grid, *, n_classes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of each class in each token's cell.

    mask    : (h, w) class indices, negative = ignored
    grid    : (H, W) tokens
    returns : (H*W, n_classes) pixels of each class, and (H*W,) pixels of the cell, ignored ones included
    """
    height, width = mask.shape
    rows, columns = locate_pixels(height, grid[0]), locate_pixels(width, grid[1])
    token = rows[:, None] * grid[1] + columns
    valid = mask >= 0
    code = (token * n_classes + mask)[valid] if not valid.all() else (token * n_classes + mask).ravel()
    n_tokens = grid[0] * grid[1]
    counts = np.bincount(code, minlength=n_tokens * n_classes).reshape(n_tokens, n_classes)
    cell = np.outer(np.bincount(rows, minlength=grid[0]), np.bincount(columns, minlength=grid[1])).ravel()
    return counts, cell


def weigh_tokens_by_class(mask: Labels, grid: Grid, *, n_classes: int) -> NDArray[np.float64]:
    """Share of each token's cell that each class covers.

    returns : (H*W, n_classes), rows sum to 1 less the ignored share; zeros for a cell without a pixel
    """
    counts, cell = count_classes_per_token(mask, grid, n_classes=n_classes)
    return counts / np.maximum(cell, 1)[:, None]


def round_mask_to_grid(mask: Labels, grid: Grid, *, n_classes: int) -> NDArray[np.int16]:
    """Give each token the class that most pixels of its cell have; ignored pixels have no say.

    returns : (H*W,) class indices, ties to the lower index; -1 where every pixel is ignored or there is none
    """
    counts, _ = count_classes_per_token(mask, grid, n_classes=n_classes)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1).astype(np.int16)


def spread_tokens(values: NDArray[np.generic], grid: Grid, size: tuple[int, int]) -> NDArray[np.generic]:
    """Give every pixel its token's value (nearest neighbour).

    values  : (..., H*W)
    size    : (h, w) pixels
    returns : (..., h, w)
    """
    on_grid = values.reshape(*values.shape[:-1], *grid)
    rows, columns = locate_pixels(size[0], grid[0]), locate_pixels(size[1], grid[1])
    return on_grid[..., rows[:, None], columns]


def resize_mask(mask: Labels, size: tuple[int, int]) -> Labels:
    """Stretch a mask to another image's size (nearest neighbour), for the control with other images' masks.

    mask    : (h, w) class indices
    returns : (height, width)
    """
    rows, columns = locate_pixels(size[0], mask.shape[0]), locate_pixels(size[1], mask.shape[1])
    return mask[rows[:, None], columns]


def build_bilinear_matrix(n_tokens: int, n_pixels: int) -> NDArray[np.float32]:
    """Bilinear interpolation along one axis, between token centres, constant beyond the outer ones.

    The convention of torch's interpolate(mode='bilinear', align_corners=False).

    returns : (n_pixels, n_tokens), rows sum to 1 and have at most two entries
    """
    position = np.clip((np.arange(n_pixels) + 0.5) * n_tokens / n_pixels - 0.5, 0, n_tokens - 1)
    low = np.minimum(np.floor(position).astype(np.intp), max(n_tokens - 2, 0))
    share = position - low
    matrix = np.zeros((n_pixels, n_tokens), np.float32)
    pixel = np.arange(n_pixels)
    matrix[pixel, low] = 1 - share
    if n_tokens > 1:
        matrix[pixel, low + 1] = share
    return matrix
