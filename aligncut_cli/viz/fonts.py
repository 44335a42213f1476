"""Fonts for names in any script: Pillow's own where it has the letters, else one of the system's, else escapes."""

from __future__ import annotations

import unicodedata
from functools import cache

from PIL import ImageFont

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

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
    """Return the file of the font that `choose_font` takes for a text; empty for Pillow's own."""
    return _find_font(frozenset(letter for letter in text if _is_visible(letter)))


def _is_visible(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cf", "Zs", "Mn")


def _escape(letter: str) -> str:
    if not _is_visible(letter):
        return " " if letter.isspace() else ""
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"


@cache
def _load(path: str, size: int) -> Font:
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


@cache
def _has(path: str, letter: str) -> bool:
    """Return whether a font draws a letter otherwise than one it lacks."""
    if letter.isascii():  # line breaks among them
        return True
    font = _load(path, 16)
    return bytes(font.getmask(letter)) != bytes(font.getmask(NOWHERE))


@cache
def _find_font(letters: frozenset[str]) -> str:
    """Return the path of the font that has most of some letters, the system's plain ones first; "" is Pillow's own."""
    best, most = "", sum(_has("", letter) for letter in letters)
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
