"""Montages have names of their own, and titles that can be read, whatever photos are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligncut_cli.stages.render.phases import name_montages
from aligncut_cli.stages.render.section import OVERVIEW
from aligncut_cli.viz.fonts import NOWHERE, PLAIN, choose_font, find_font_file
from aligncut_cli.viz.montage import draw_montage
from aligncut_cli.viz.style import FigureStyle

STYLE = FigureStyle("png", 85.0, 100, 7.0, {})


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["a", "b/c", "日本"], ["a", "b/c", "日本"]),
        (["overview", "overview_", "Overview"], ["overview_", "overview__", "Overview___"]),
        (["x/overview"], ["x/overview_"]),
        (["A", "a"], ["A", "a_"]),
        (["e\u0301", "é"], ["e\u0301", "é_"]),
        (["a", "a.png/b"], ["a_", "a.png/b"]),
        (["cat", "cat/a"], ["cat", "cat/a"]),
    ],
)
def test_no_montage_takes_the_place_of_another_file(tmp_path: Path, ids: list[str], names: list[str]) -> None:
    assert name_montages(ids, "png") == names
    for name in [*names, OVERVIEW]:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert not path.exists()
        path.touch()


@pytest.mark.parametrize("title", ["plain", "été", "Ωμέγα", "日本語の写真", "a\u200db\u00a0c", "😀", "한국어 Ω"])
def test_titles_have_letters_or_escapes_but_no_boxes(title: str) -> None:
    font, text = choose_font(title, 16)
    box = bytes(font.getmask(NOWHERE))
    assert all(bytes(font.getmask(letter)) != box for letter in text if not letter.isspace() and ord(letter) > 32)
    shown = text.encode().decode("unicode_escape") if "\\u" in text and text.isascii() else text
    if text.isascii() and "\\" in text:
        assert all(letter in shown for letter in title if letter.isprintable() and not letter.isspace())
    if title == "plain":
        assert text == title
        assert font == choose_font("other", 16)[0]


def test_the_font_of_the_plots_has_letters_of_many_scripts() -> None:
    for text in ("жук", "Ωμέγα", "Łódź"):
        assert choose_font(text, 16)[1] == text
        assert find_font_file(text) == PLAIN


def test_a_montage_is_drawn_whatever_its_title() -> None:
    grid = np.zeros((2, 2, 3), np.uint8)
    photo = np.zeros((40, 60, 3), np.uint8)
    one, two = (
        draw_montage(photo, {"m": [(0, grid)]}, title=title, caption="", style=STYLE, controls=[]).draw()
        for title in ("日本", "日本")
    )
    assert isinstance(one, Image.Image)
    assert one.tobytes() == two.tobytes()
