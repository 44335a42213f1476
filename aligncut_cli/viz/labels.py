"""Colours of classes and clusters, and label maps in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import hsv_to_rgb, to_rgb
from numpy.typing import NDArray
from PIL import Image

from aligncut_cli.viz.canvas import Pixels
from aligncut_cli.viz.sheet import Key
from aligncut_cli.viz.style import COLOURS

UNLABELLED = (224, 224, 192)
MOST_INDEXED = 255


def safe_colours(count: int) -> Pixels:
    """Return (count, 3) colours of label indices: 0 is dark grey, then the eight of figures.

    Beyond these, hues that step by the golden angle, light and dark in turn: told apart by lightness too, though no
    palette keeps more than about ten classes apart for all eyes.
    """
    plain = [(64, 64, 64), *(tuple(round(255 * part) for part in to_rgb(colour)) for colour in COLOURS)]
    for index in range(len(plain), count):
        hue = (0.05 + index * 0.381966) % 1
        light, full = ((0.95, 0.45), (0.6, 0.9), (0.8, 0.7))[index % 3]
        plain.append(tuple(round(255 * float(part)) for part in hsv_to_rgb((hue, full, light))))
    return np.array(plain[: max(count, 1)], np.uint8)[:count]


def voc_colours(count: int) -> Pixels:
    """Return (count, 3) colours of label indices, PASCAL VOC's map: 0 is black, neighbours differ strongly."""
    index = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> channel) & 1) << (7 - bit)).astype(np.uint8)
        index = index >> 3
    return colours


PALETTES = {"safe": safe_colours, "voc": voc_colours}


def list_keys(classes: Sequence[str], shown: Sequence[int], palette: str) -> list[Key]:
    """Return the legend of the labels that are shown, in order; labels without a name are numbered."""
    colours = PALETTES[palette](max(shown, default=0) + 1)
    return [
        Key(
            (int(colours[label][0]), int(colours[label][1]), int(colours[label][2])),
            classes[label] if label < len(classes) else f"segment {label}",
        )
        for label in shown
    ]


def indexed_picture(labels: NDArray[np.integer], palette: str) -> Image.Image:
    """Return a palette picture whose values are the labels, negative ones as 255.

    labels : (h, w), at most 254
    """
    picture = Image.fromarray(np.where(labels < 0, MOST_INDEXED, labels).astype(np.uint8), mode="P")
    colours = PALETTES[palette](MOST_INDEXED + 1)
    colours[MOST_INDEXED] = UNLABELLED
    picture.putpalette(colours.tobytes())
    return picture


def blend_labels(photo: Pixels, labels: NDArray[np.integer], palette: str) -> Pixels:
    """Lay labels over a photo in grey: 0, the background, as a shade, others in colour; negative ones stay a photo.

    photo  : (h, w, 3)
    labels : (h, w)
    """
    colours = PALETTES[palette](int(labels.max(initial=0)) + 1)[np.maximum(labels, 0)]
    grey = photo.mean(axis=2, keepdims=True)
    share = np.where(labels == 0, 0.25, 0.55)[..., None]
    mixed = np.where(labels[..., None] < 0, photo, share * colours + (1 - share) * grey)
    return np.round(mixed).astype(np.uint8)
