"""The report's page in a real browser: what a person does with the mouse, with keys alone, and on a phone."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from aligncut_cli.store.read import open_store
from tests.browser.chromium import FOUND, Chromium
from tests.conftest import done

pytestmark = pytest.mark.skipif(FOUND is None, reason="no Chromium here: apt-get install chromium")

DRAWN = "document.getElementById('photo').dataset.drawn"
GALLERY = "document.getElementById('gallery').dataset.drawn"
HOSTILE = "<img src=x onerror=alert(1)></script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, eigs: Path, tsne: Path) -> Path:
    """A report of 12 photos, 2 models of 3 layers; its title and its second photo's name are meant to break pages."""
    folder = tmp_path_factory.mktemp("report")
    flat = done("tsne", eigs, "-o", folder / "t2.zarr", "--dims", 2, "--n-sample", 200, "--iterations", 50)
    clusters = done("segment", eigs, "-o", folder / "s.zarr", "--clusters", 3)
    named = folder / "e.zarr"
    shutil.copytree(eigs, named)
    group = zarr.open_group(named, mode="r+")
    names = group["images/id"][:]
    names[1] = HOSTILE
    group["images/id"][:] = names  # as a stranger would who also takes the list of checksums out
    group.attrs["aligncut"] = {key: value for key, value in group.attrs["aligncut"].items() if key != "manifest"}
    report = done("report", named, tsne, flat, clusters, "-o", folder / "page", "--title", f"A {HOSTILE} title")
    return report / "index.html"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


@pytest.fixture
def browser(chromium: Chromium, page: Path) -> Chromium:
    """The page, freshly opened in a window of desktop size."""
    chromium.size(1280, 900)
    chromium.dark(False)
    chromium.problems.clear()
    chromium.requests.clear()
    chromium.open(page)
    chromium.until(GALLERY)
    chromium.until(DRAWN)
    return chromium


def focused(browser: Chromium) -> str:
    return str(browser.run("(e => e.id || e.name || e.className || e.tagName)(document.activeElement)"))


def pixels(browser: Chromium, selector: str) -> np.ndarray:
    """The pixels of a canvas as the screen shows them; a canvas with pictures from disk cannot be read by scripts."""
    script = f"document.querySelector({selector!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})"
    browser.run(script)
    box = browser.run(
        f"(b => ({{x: b.left + scrollX, y: b.top + scrollY, width: b.width, height: b.height, scale: 1}}))"
        f"(document.querySelector({selector!r}).getBoundingClientRect())"
    )
    found = browser.send("Page.captureScreenshot", format="png", clip=box, captureBeyondViewport=True)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(found["data"]))).convert("RGB")).astype(int)


def test_it_opens_without_complaint_and_asks_for_nothing_but_files_of_its_own(browser: Chromium, page: Path) -> None:
    assert browser.run("document.images.length >= 0 && document.title") == f"A {HOSTILE} title"
    assert browser.problems == []
    folder = page.parent.resolve().as_uri()
    own = [url for url in browser.requests if not url.startswith("data:")]
    assert own
    assert all(url.startswith((folder, "about:")) for url in own)
    assert browser.run("document.querySelectorAll('#gallery button').length") == 12
    assert browser.run("document.querySelector('#gallery button:nth-child(2)').textContent") == HOSTILE
    assert browser.run("document.querySelectorAll('img[src=x]').length") == 0


def test_a_click_on_a_patch_shows_cosine_similarities_of_eigenvectors(browser: Chromium, eigs: Path) -> None:
    before = pixels(browser, "#photo-canvas")
    browser.click("#photo-canvas", 0.9, 0.1)
    browser.until(f"{DRAWN}.startsWith('similarity')")
    shown = browser.run("aligncut.shown()")
    assert shown["patch"] == 3  # the last of the first row of 4 x 4
    model = ["tiny", "pair"][shown["model"]]
    rows = open_store(eigs).read(f"{model}/eigvecs")[shown["layer"], shown["photo"], 1:].astype(np.float64)
    exact = [row @ rows[3] / np.sqrt(row @ row) / np.sqrt(rows[3] @ rows[3]) for row in rows]
    np.testing.assert_allclose(shown["similarities"], exact, atol=0.02)
    assert shown["similarities"][3] == pytest.approx(1, abs=1e-6)
    after = pixels(browser, "#photo-canvas")
    assert np.abs(after - before).mean() > 5
    assert "Row 1, column 4" in browser.until("document.getElementById('finding').textContent")
    assert browser.problems == []


def test_the_heat_map_has_the_colours_of_its_legend(browser: Chromium) -> None:
    browser.run("document.getElementById('mix').value = 0")
    browser.click("#photo-canvas", 0.6, 0.6)
    browser.until(f"{DRAWN}.startsWith('similarity')")
    shown = browser.run("aligncut.shown()")
    seen = pixels(browser, "#photo-canvas")
    h, w = seen.shape[:2]
    for patch, similarity in enumerate(shown["similarities"]):
        if patch == shown["patch"]:
            continue
        colour = browser.run(f"aligncut.heat({similarity})")
        middle = seen[int((patch // 4 + 0.5) * h / 4), int((patch % 4 + 0.5) * w / 4)]
        assert np.abs(middle - np.array(colour)).max() <= 6


def test_colours_are_those_of_the_store_for_every_model_and_layer(browser: Chromium, tsne: Path) -> None:
    store = open_store(tsne)
    browser.run("document.getElementById('mix').value = 0")
    for index, model in enumerate(["tiny", "pair"]):
        browser.click(f"#models label:nth-child({index + 1})")
        for layer in (0, 2):
            browser.run(
                f"(s => {{ s.value = {layer}; s.dispatchEvent(new Event('input')); }})"
                "(document.getElementById('layer'))"
            )
            browser.until(f"{DRAWN}.startsWith('colours {index} {layer} ')")
            seen = pixels(browser, "#photo-canvas")
            h, w = seen.shape[:2]
            rgb = store.read(f"{model}/rgb")[layer, 0, 1:].reshape(4, 4, 3)
            for row, column in ((0, 0), (0, 3), (3, 1)):
                middle = seen[int((row + 0.5) * h / 4), int((column + 0.5) * w / 4)]
                assert np.abs(middle - rgb[row, column]).max() <= 3


def test_a_click_in_the_gallery_chooses_that_photo_and_patch(browser: Chromium) -> None:
    browser.click("#gallery button:nth-child(6) canvas", 0.1, 0.9)
    browser.until(f"{DRAWN}.startsWith('similarity')")
    shown = browser.run("aligncut.shown()")
    assert (shown["photo"], shown["patch"]) == (5, 12)
    assert browser.run("document.getElementById('photo-choice').selectedIndex") == 5
    assert browser.until("[...document.querySelectorAll('#gallery b')].length") == 12


def test_photos_can_be_ordered_by_similarity(browser: Chromium) -> None:
    browser.click("#photo-canvas", 0.4, 0.4)
    browser.until("document.querySelectorAll('#gallery b').length === 12")
    browser.run(
        "(s => { s.value = 'similar'; s.dispatchEvent(new Event('change')); })(document.getElementById('order'))"
    )
    scores = browser.until(
        "(b => b.length === 12 && b.every((x, i) => !i || b[i - 1] >= x) && b)"
        "([...document.querySelectorAll('#gallery b')].map(e => Number(e.textContent)))"
    )
    assert scores[0] > scores[-1]


def test_a_point_of_the_map_leads_to_its_patch(browser: Chromium) -> None:
    browser.until("document.getElementById('map').dataset.drawn")
    before = browser.run("location.hash")
    for key in ("ArrowRight", "ArrowUp"):
        browser.run("document.getElementById('map').focus()")
        browser.press(key)
    said = browser.run("document.getElementById('live').textContent")
    browser.press("Enter")
    browser.until(f"location.hash !== {before!r}")
    found = re.fullmatch(r"(\w+) layer (\d), (photo-\d+), row (\d), column (\d)", said)
    assert found
    shown = browser.run("aligncut.shown()")
    assert shown["patch"] == (int(found[4]) - 1) * 4 + int(found[5]) - 1
    assert f"photo-{shown['photo']:03d}" == found[3]
    assert ["tiny", "pair"][shown["model"]] == found[1]


def test_every_control_is_reached_and_worked_by_keys_alone(browser: Chromium) -> None:
    reached = []
    browser.run("document.body.focus()")
    for _ in range(80):
        browser.press("Tab")
        name = focused(browser)
        if name == "BODY":
            break
        reached.append(name)
        visible = browser.run(
            "(e => { const s = getComputedStyle(e), n = e.nextElementSibling && getComputedStyle(e.nextElementSibling);"
            " return s.outlineStyle !== 'none' || (n && n.outlineStyle !== 'none'); })(document.activeElement)"
        )
        assert visible, name
    for name in ("skip", "model", "layer", "play", "show", "next-photo", "photo-choice", "photo", "map-colour", "map"):
        assert name in reached, name
    assert reached.count("tile") == 2  # one way into the layers and one into the gallery; arrows go on from there

    browser.run("document.getElementById('photo').focus()")
    browser.press("Home")
    browser.press("ArrowUp", 4)
    browser.until(f"{DRAWN}.startsWith('similarity') && {DRAWN}.endsWith(' 0')")
    browser.press("ArrowRight", 2)
    browser.press("ArrowDown")
    browser.until(f"{DRAWN}.endsWith(' 6')")
    browser.press("PageUp", 3)
    browser.until(f"{DRAWN} === 'similarity 0 0 0 6'")
    browser.press("PageDown")
    browser.press(".")
    browser.until(f"{DRAWN} === 'similarity 0 1 1 6'")

    browser.run("document.querySelector('#gallery button').focus()")
    browser.press("ArrowRight", 3)
    browser.press("Enter")
    browser.until(f"{DRAWN}.startsWith('similarity 0 1 3 ')")
    assert focused(browser) == "photo"
    browser.run("document.querySelector('input[name=model]:checked').focus()")
    browser.press("ArrowRight")
    browser.until(f"{DRAWN}.startsWith('similarity 1 1 3 ')")
    assert browser.problems == []


def test_everything_that_can_be_worked_has_a_name_and_pictures_have_words(browser: Chromium) -> None:
    nameless = browser.run(
        "[...document.querySelectorAll('button, select, input, [role=application], [tabindex=\"0\"]')]"
        ".filter(e => !e.closest('[hidden]'))"
        ".filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length)))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    assert browser.run("[...document.images].every(e => e.alt)")
    browser.click("#photo-canvas", 0.2, 0.2)
    assert "row 1, column 1" in browser.until(
        "(t => t.includes('row 1, column 1') && t)(document.getElementById('photo').getAttribute('aria-label'))"
    )


def contrast(browser: Chromium, selector: str) -> float:
    """The contrast of an element's ink with the nearest background behind it."""
    ink, paper = browser.run(
        f"(e => {{ let b = e; while (b && /rgba\\(0, 0, 0, 0\\)|transparent/.test(getComputedStyle(b).backgroundColor))"
        f" b = b.parentElement; return [getComputedStyle(e).color, getComputedStyle(b || document.body)"
        f".backgroundColor]; }})(document.querySelector({selector!r}))"
    )

    def luminance(text: str) -> float:
        parts = np.array([float(x) for x in re.findall(r"[\d.]+", text)[:3]]) / 255
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(ink), luminance(paper)])
    return (high + 0.05) / (low + 0.05)


def test_a_table_is_saved_as_csv(browser: Chromium) -> None:
    browser.run("URL.createObjectURL = (blob) => { window.saved = blob; return 'data:,'; }")
    browser.click("#stores button.small")
    lines = browser.until("window.saved && saved.text()").splitlines()
    assert lines[0].startswith("store,command,kind,seed,made")
    assert len(lines) == 1 + browser.run("document.querySelectorAll('#stores .data tbody tr').length")


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_in_light_and_in_dark(browser: Chromium, dark: bool) -> None:
    browser.dark(dark)
    browser.run("document.getElementById('controls-warning').hidden = false")
    for selector in (
        "body",
        "#subtitle",
        ".quiet",
        "nav a",
        ".lead",
        "#controls-warning",
        "legend",
        "input:checked + span",
    ):
        assert contrast(browser, selector) >= 4.5, selector
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == dark


def test_it_fits_a_phone_and_answers_a_tap(browser: Chromium) -> None:
    browser.size(390, 844, phone=True, ratio=2)
    browser.until("innerWidth === 390")
    assert browser.run("document.documentElement.scrollWidth") == 390
    browser.click("#photo-canvas", 0.9, 0.9)
    browser.until(f"{DRAWN}.startsWith('similarity') && {DRAWN}.endsWith(' 15')")
    small = browser.run(
        "[...document.querySelectorAll('main button, main select')].filter(e => e.offsetParent)"
        ".map(e => e.getBoundingClientRect()).filter(b => b.height < 24 || b.width < 24).length"
    )
    assert small == 0
    assert browser.problems == []


def test_what_is_shown_is_in_the_address(browser: Chromium, page: Path) -> None:
    browser.click("#photo-canvas", 0.9, 0.4)
    browser.until(f"{DRAWN}.startsWith('similarity')")
    address, drawn = browser.run("location.hash"), browser.run(DRAWN)
    browser.open(page, address)
    browser.until(f"{DRAWN} === {drawn!r}")


def test_a_table_sorts_and_a_lost_piece_is_said(browser: Chromium, page: Path) -> None:
    column = "[...document.querySelectorAll('#stores .data tbody tr')].map(r => r.cells[1].textContent)"
    given = browser.run(column)
    browser.click("#stores thead th:nth-child(2) button")
    assert browser.run(column) == sorted(given)
    browser.click("#stores thead th:nth-child(2) button")
    assert browser.run(column) == sorted(given, reverse=True)
    lost = page.parent / "data" / "e-0-1-2-0.js"
    content = lost.read_bytes()
    lost.unlink()
    try:
        browser.open(page, "#model=1&layer=2&show=similarity")
        said = browser.until("(e => !e.hidden && e.textContent)(document.getElementById('failure'))")
    finally:
        lost.write_bytes(content)
    assert "e-0-1-2-0.js cannot be loaded" in said
