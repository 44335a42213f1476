"""Figures in print: every format at one and at two columns, embedded letters, names, and the same bytes again."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from aligncut_cli.viz.canvas import Canvas, Line
from aligncut_cli.viz.concept_plots import plot_activations
from aligncut_cli.viz.decoding_plots import RunBar, plot_neurons, plot_runs
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.fonts import shorten, text_width, wrap_text
from aligncut_cli.viz.labels import safe_colours, voc_colours
from aligncut_cli.viz.score_plots import RoiScore, ScoreLine, plot_layer_scores, plot_roi_scores, plot_scores
from aligncut_cli.viz.sheet import Row, Scale, draw_sheet
from aligncut_cli.viz.style import MM_PER_INCH, FigureStyle
from tests.conftest import aligncut, done

MM = 25.4


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    for photo in photos.glob("*.png"):
        with Image.open(photo) as picture:
            mask = np.zeros(picture.size[::-1], dtype=np.uint8)
        mask[: len(mask) // 2] = 1
        Image.fromarray(mask).save(folder / photo.name)
    return folder


def commands(features: Path, eigs: Path, tsne: Path, masks: Path, folder: Path) -> dict[str, list[object]]:
    """A command per kind of figure, small, and where its figures are written."""
    return {
        "compare": ["compare", features, "--n-sample", 50, "-o", folder / "compare"],
        "render": ["render", tsne, "--images", 2, "-o", folder / "render"],
        "concepts": ["concepts", tsne, "--concepts", 3, "--patches", 2, "-o", folder / "concepts"],
        "segment": [
            *("segment", eigs, "--masks", masks, "--resolution", "tokens", "--pictures", 1),
            *("-o", folder / "s.zarr", "--figures", folder / "segment"),
        ],
        "transitions": [
            *("transitions", tsne, "--along", "tiny", "--from", "tiny:0", "--to", "tiny:1", "--permutations", 5),
            *("-o", folder / "x.zarr", "--figures", folder / "transitions"),
        ],
    }


FIGURES = {
    "compare": ["similarity", "relations"],
    "render": ["overview", "photo-000"],
    "concepts": ["patches", "map"],
    "segment": ["scores", "overview", "overlays/photo-000"],
    "transitions": ["transitions", "flow-tiny"],
}


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_figures_have_the_width_the_format_and_the_names_that_are_asked_for(
    tmp_path: Path, features: Path, eigs: Path, tsne: Path, masks: Path, name: str
) -> None:
    looks = {"png": ["--width", "85mm", "--dpi", 150], "pdf": ["--width", "18cm", "--names", "tiny=Tiny Net"]}
    for format, more in looks.items():
        command = commands(features, eigs, tsne, masks, tmp_path / format)[name]
        result = aligncut(*command, "--format", format, *more)
        assert result.code == 0, result.err
        for figure in FIGURES[name]:
            file = tmp_path / format / name / f"{figure}.{format}"
            if format == "png":
                with Image.open(file) as picture:
                    assert picture.size[0] == pytest.approx(85 / MM * 150, abs=1)
            else:
                content = file.read_bytes()
                box = re.search(rb"/MediaBox \[ ?0 0 ([0-9.]+) ", content)
                assert box
                assert float(box[1]) == pytest.approx(180 / MM * 72, abs=1)
                assert b"/FontFile2" in content, "letters are embedded as TrueType"
                assert b"/Type3" not in content


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs pdftotext")
def test_letters_of_a_pdf_can_be_searched(tmp_path: Path, features: Path) -> None:
    args = ["--n-sample", 50, "--format", "pdf", "--names", "tiny=Tiny Net"]
    folder = done("compare", features, "-o", tmp_path / "c", *args)
    text = subprocess.run(["pdftotext", folder / "similarity.pdf", "-"], capture_output=True, text=True, check=True)
    assert "Tiny Net:0" in text.stdout


def test_svg_needs_no_fonts_and_the_same_figure_has_the_same_bytes(tmp_path: Path, tsne: Path) -> None:
    for format in ("svg", "pdf"):
        both = [
            done("render", tsne, "--images", 1, "-o", tmp_path / f"{format}{k}", "--format", format) for k in (0, 1)
        ]
        bytes_of = [(folder / f"photo-000.{format}").read_bytes() for folder in both]
        assert bytes_of[0] == bytes_of[1]
        assert format == "pdf" or (b"<path" in bytes_of[0] and b"font-family" not in bytes_of[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--width", "85"], "85mm, 18cm or 3.3in"),
        (["--width", "2mm"], "Take 40 to 1000 mm"),
        (["--names", "nobody=N"], "There are: tiny, pair"),
        (["--names", "tiny"], "names nothing"),
        (["--dpi", "10"], "--dpi"),
    ],
)
def test_looks_that_cannot_be_are_refused(tmp_path: Path, tsne: Path, options: list[str], words: str) -> None:
    result = aligncut("render", tsne, "-o", tmp_path / "r", *options)
    assert result.code == 2, result.err
    assert words in result.err
    assert not list(tmp_path.iterdir())


def test_how_figures_look_makes_no_other_store(tmp_path: Path, eigs: Path, masks: Path) -> None:
    args = ["segment", eigs, "--masks", masks, "--resolution", "tokens", "-o", tmp_path / "s.zarr"]
    done(*args)
    assert "is up to date" in aligncut(*args, "--format", "pdf", "--font-size", 9).err


# Rows of L, M, S from linear RGB, and what is seen without L or without M cones (Vienot, Brettel and Mollon 1999).
TO_LMS = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
PROTANOPE = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
DEUTERANOPE = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])


@pytest.mark.parametrize("eye", [PROTANOPE, DEUTERANOPE], ids=["protanope", "deuteranope"])
def test_the_background_and_eight_classes_are_told_apart_without_red_or_green_cones(eye: np.ndarray) -> None:
    colours = safe_colours(9).astype(float)
    seen = ((colours / 255) ** 2.2) @ (np.linalg.inv(TO_LMS) @ eye @ TO_LMS).T
    seen = np.clip(seen, 0, 1) ** (1 / 2.2)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[~np.eye(9, dtype=bool)]
    assert apart.min() > 0.1


def test_no_two_of_sixty_classes_have_one_colour_and_voc_has_its_own() -> None:
    assert len(np.unique(safe_colours(60), axis=0)) == 60
    np.testing.assert_array_equal(voc_colours(3), [[0, 0, 0], [128, 0, 0], [0, 128, 0]])


STYLE = FigureStyle("png", 85.0, 100, 7.0, {})


def test_legends_name_what_is_drawn_and_no_axis_has_an_empty_line() -> None:
    line = ScoreLine("run", "clip", [0, 1], np.array([[0.2, 0.4]]), np.array([0.1, 0.1]), np.array([0.1, 0.1]), 0.9)
    scores = RoiScore("V1", 0.3, 0.2, 0.4, 0.25, 0.6)
    layers, means = {"clip": [0, 1]}, {"clip": np.zeros((2, 3, 1))}
    shown = [
        (plot_scores([line], title="t", style=STYLE, controls=()), "bound of the token grid"),
        (plot_roi_scores([scores], style=STYLE, controls=()), "95 % interval over images"),
        (plot_activations(["V1"], layers, means, means, style=STYLE, controls=()), "background"),
        (plot_neurons([5, 9], {"run": np.ones(2)}, {"run": np.ones((2, 4))}, style=STYLE, controls=()), "random, 95 %"),
        (plot_runs([RunBar("run", 0.5, 0.4, 0.6)], chance=0.1, style=STYLE, controls=()), "95 % interval over images"),
    ]  # fmt: skip
    for figure, label in shown:
        texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert label in texts
        assert len(texts) == len(set(texts))
        assert all(len(line.get_xdata()) for axis in figure.axes for line in axis.lines)


def test_what_a_scale_says_stays_within_the_sheet() -> None:
    """The label beside the scale is broken into lines that end before the right edge."""
    label = "cosine; beyond the ends as at the ends"
    scale = Scale(np.zeros((1, 3, 3), np.uint8), ("-1", "0", "1"), label)
    for width in (40.0, 85.0, 180.0):
        style = replace(STYLE, width=width)
        sheet = draw_sheet([], title="", style=style, controls=(), scale=scale)
        parts = [line for line in sheet.lines if line.text in label and line.size == style.font_size]
        assert " ".join(line.text for line in parts) == label
        assert all(line.x + text_width(line.text, line.size) <= width for line in parts)
        assert all(line.y + style.line <= sheet.height + 1e-9 for line in parts)


def find_cut(figure: Figure) -> list[str]:
    """Return labels and entries of legends that end beyond a figure as it is saved."""
    figure.draw_without_rendering()
    page, cut = figure.bbox, []
    texts: list[Text] = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for text in [*texts, *(label for axis in figure.axes for label in (axis.xaxis.label, axis.yaxis.label))]:
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= page.width + 1 and box.y1 <= page.height + 1
        if text.get_text().strip() and not inside:
            cut.append(text.get_text())
    return cut


@pytest.mark.parametrize("width", [85.0, 180.0])
@pytest.mark.parametrize("what", ["activations", "layers"])
def test_long_labels_of_low_figures_are_broken_and_not_cut(what: str, width: float, tmp_path: Path) -> None:
    """One region makes a figure lower than the label of its axis or scale is long."""
    style, layers = replace(STYLE, width=width, font_size=9.0), {"clip": [0, 1], "dino": [0, 1]}
    values = {model: np.zeros((2, 3, 1)) for model in layers}

    def draw() -> Figure:
        if what == "activations":
            return plot_activations(["all"], layers, values, values, style=style, controls=())
        r2 = {model: np.full((2, 1), 0.1, np.float32) for model in layers}
        return plot_layer_scores(["all"], layers, r2, style=style, controls=())

    assert find_cut(draw())
    saved = draw()
    save_figure(saved, tmp_path / "figure.pdf")
    assert find_cut(saved) == []


def test_texts_are_as_wide_as_measured_in_pixels_and_in_pdf() -> None:
    """The measure is the font's that both are drawn with, so that nothing overlaps in one of the formats."""
    style = replace(STYLE, width=85.0, dpi=300)
    for text in ("concept 3", "demo-mae:2, demo-mae:1 and 3 more", "WWW", "iii"):
        canvas = Canvas(style, 20.0, [Line(5.0, 5.0, text, 8.0)])
        ink = np.flatnonzero((np.asarray(canvas.draw()) < 128).any(axis=(0, 2)))
        drawn = (ink[-1] + 1 - ink[0]) / style.dpi * MM_PER_INCH
        plotted = canvas._plot()
        plotted.draw_without_rendering()
        in_plot = plotted.texts[0].get_window_extent().width / style.dpi * MM_PER_INCH
        assert text_width(text, 8.0) == pytest.approx(drawn, abs=0.6 + 0.02 * drawn)
        assert text_width(text, 8.0) == pytest.approx(in_plot, abs=0.6 + 0.02 * drawn)


def test_wrapped_lines_fit_keep_all_words_and_could_not_be_fewer() -> None:
    text = "demo-mae:2, demo-mae:1 and 3 more, of which anunusuallylongnamewithoutanyplacetobreak is one"
    for width in (10.0, 20.0, 60.0, 500.0):
        lines = wrap_text(text, width, 7.0)
        assert all(text_width(line, 7.0) <= width for line in lines)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        for line, after in itertools.pairwise(lines):
            assert text_width(f"{line} {after.split()[0]}", 7.0) > width
    assert wrap_text("", 10.0, 7.0) == []
    cut = shorten(text, 30.0, 7.0)
    assert text.endswith(cut[1:])
    assert text_width(cut, 7.0) <= 30.0
    assert shorten("short", 30.0, 7.0) == "short"


def test_labels_of_rows_end_before_the_tiles() -> None:
    tile = np.zeros((8, 8, 3), np.uint8)
    for width in (85.0, 180.0):
        style = replace(STYLE, width=width)
        rows = [Row(f"concept {k}\n10,000 tokens\ndemo-mae:{k}, demo-mae:1 and 3 more", [("", tile)]) for k in range(3)]
        sheet = draw_sheet(rows, title="", style=style, controls=())
        left = min(tile.x for tile in sheet.tiles)
        assert all(line.x + text_width(line.text, line.size) <= left for line in sheet.lines)
