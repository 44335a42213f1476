"""Fonts for names in any script: that of the plots where it has the letters, else one of the system's, else escapes.

One font in PNG, PDF and SVG, so that a text that is measured here is as wide in all of them.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

import matplotlib
from PIL import ImageFont

from aligncut_cli.viz.style import MM_PER_INCH

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

PLAIN = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
MEASURED = 64
"""Pixels of the letters that widths are measured on."""
NOWHERE = "\U0010ffff"
"""A letter that no font has, drawn as the box of missing ones."""


def choose_font(text: str, size: int) -> tuple[Font, str]:
    """Return a font for a text, and the text as it can be drawn with it.

    Letters that no one font of the system has together with the others are written as escapes, never as boxes.
    """
    path = find_font_file(text)
    font = _load(path, size)
    return font, "".join(letter if _has(path, letter) else _escape(letter) for letter in text)


def find_font_file(text: str) -> str:
    """Return the file of the font that `choose_font` takes for a text."""
    return _find_font(frozenset(letter for letter in text if _is_visible(letter)))


def text_width(text: str, size: float) -> float:
    """Return how wide a text is, mm, in letters of a size in points."""
    font, drawable = choose_font(text, MEASURED)
    return font.getlength(drawable) * size / MEASURED * MM_PER_INCH / 72


def widest_text(texts: Iterable[str], size: float) -> float:
    """Return how wide the widest of some texts is, mm; 0 where there is none."""
    return max((text_width(text, size) for text in texts), default=0.0)


def wrap_text(text: str, width: float, size: float) -> list[str]:
    """Break a text into lines of at most a width, mm, in letters of a size in points; between words where it can."""
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and text_width(longer, size) > width:
            lines.append(line)
            longer = word
        line = longer
        while len(line) > 1 and text_width(line, size) > width:
            fit = max(1, bisect_right(range(1, len(line)), width, key=partial(_width_of_start, line, size)))
            lines.append(line[:fit])
            line = line[fit:]
    return [*lines, line] if line else lines


def shorten(text: str, width: float, size: float) -> str:
    """Cut a text to a width, mm, in letters of a size in points; keeps its end."""
    if text_width(text, size) <= width:
        return text
    left_out = "\u2026"
    fit = bisect_right(range(1, len(text)), width, key=lambda count: text_width(left_out + text[-count:], size))
    return left_out + text[len(text) - max(1, fit) :]


def _width_of_start(text: str, size: float, end: int) -> float:
    return text_width(text[:end], size)


def _is_visible(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cf", "Zs", "Mn")


def _escape(letter: str) -> str:
    if not _is_visible(letter):
        return " " if letter.isspace() else ""
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


@cache
def _load(path: str, size: int) -> Font:
    return ImageFont.truetype(path, size)


@cache
def _has(path: str, letter: str) -> bool:
    """Return whether a font draws a letter otherwise than one it lacks."""
    if letter.isascii():  # line breaks among them
        return True
    font = _load(path, 16)
    return bytes(font.getmask(letter)) != bytes(font.getmask(NOWHERE))


@cache
def _find_font(letters: frozenset[str]) -> str:
    """Return the path of the font that has most of some letters: that of the plots, then the system's plain ones."""
    best, most = PLAIN, sum(_has(PLAIN, letter) for letter in letters)
    if most == len(letters):
        return best
    for path in _list_fonts():
        try:
            count = sum(_has(path, letter) for letter in letters)
        except Exception:  # a font of bitmaps of one size, or a broken one
            continue
        if count > most:
            best, most = path, count
        if most == len(letters):
            break
    return best


@cache
def _list_fonts() -> tuple[str, ...]:
    from matplotlib.font_manager import findSystemFonts

    def plainness(path: str) -> tuple[bool, bool, str]:
        name = path.lower()
        odd = any(word in name for word in ("bold", "italic", "oblique", "mono", "condensed", "light", "black", "thin"))
        return odd, "sans" not in name, path

    return tuple(sorted(findSystemFonts(), key=plainness))
