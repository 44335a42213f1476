"""Pixels of files that are not 8-bit photos of one frame: deep greys, animations, much text, very many pixels."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from aligncut_cli.images import decode
from aligncut_cli.images.decode import check_image, decode_image
from aligncut_cli.images.files import find_images
from aligncut_cli.images.workers import check_images

RAMP = np.linspace(0, 1, 64).reshape(4, 16)


def write_tiff_12(path: Path, values: np.ndarray) -> None:
    """A grey TIFF of 12 bits, two pixels in three bytes."""
    pairs = values.astype(int).reshape(-1, 2)
    data = bytes(b for x, y in pairs for b in (x >> 4, (x & 15) << 4 | y >> 8, y & 255))
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4), (277, 1),
            (278, height), (279, len(data))]  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + body + bytes(4) + data)


@pytest.mark.parametrize("form", ["tiff12", "pgm12", "pgm16", "png16", "tiff16"])
def test_deep_greys_are_scaled_and_not_clipped(tmp_path: Path, form: str) -> None:
    white = 4095 if form.endswith("12") else 65535
    values = np.rint(RAMP * white).astype(np.uint16)
    path = tmp_path / f"a.{'tif' if form.startswith('tiff') else form[:3]}"
    if form == "tiff12":
        write_tiff_12(path, values)
    elif form.startswith("pgm"):
        path.write_bytes(b"P5\n16 4\n%d\n" % white + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert check_image(path) == (4, 16)
    pixels = decode_image(path, [(4, 16)])[0]
    assert np.abs(pixels[..., 0] - RAMP * 255).max() <= 1
    assert (pixels == pixels[..., :1]).all()


def test_the_first_frame_is_taken_and_that_is_said_once(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (6, 4), colour) for colour in ((250, 10, 10), (10, 250, 10)))
    for name in ("a.gif", "b.tif", "c.webp"):
        first.save(
            tmp_path / name, save_all=True, append_images=[second], **({"lossless": True} if "w" in name else {})
        )
    first.save(tmp_path / "d.png")
    first.save(tmp_path / "e.mpo", save_all=True, append_images=[second])
    said: list[str] = []
    files = find_images([tmp_path])
    good, _, _ = check_images(files, workers=0, skip_bad=False, note=said.append)
    assert len(good) == 5
    assert said == ["3 images have several frames or pages, the first is taken: a.gif, b.tif, c.webp"]
    for file in files:
        assert np.abs(decode_image(file.path, [(4, 6)])[0][2, 3].astype(int) - [250, 10, 10]).max() < 8


def test_megabytes_of_text_beside_the_pixels_are_no_fault(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    Image.new("RGB", (6, 4), (9, 8, 7)).save(tmp_path / "a.png", pnginfo=text)
    assert check_image(tmp_path / "a.png") == (4, 6)
    assert decode_image(tmp_path / "a.png", [(4, 6)])[0][0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_very_large_images_look_the_same_when_they_are_reduced_first(tmp_path: Path, monkeypatch, mode: str) -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(60, 200, (6, 5, 3), dtype=np.uint8)).resize(
        (400, 480), Image.Resampling.BICUBIC
    )
    image = smooth.convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    whole = decode_image(path, [(24, 20), (12, 12)])
    monkeypatch.setattr(decode, "LARGE_PIXELS", 1000)
    assert check_image(path) == (480, 400)
    for one, two in zip(decode_image(path, [(24, 20), (12, 12)]), whole, strict=True):
        assert one.shape == two.shape
        assert np.abs(one.astype(int) - two).max() <= (24 if mode in ("P", "1") else 4)


def test_a_large_jpeg_is_decoded_at_a_reduced_size(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(1)
    smooth = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(
        (800, 960), Image.Resampling.BICUBIC
    )
    smooth.save(tmp_path / "a.jpg", quality=95)
    whole = decode_image(tmp_path / "a.jpg", [(24, 20)])[0]
    loaded = []
    real = decode._to_rgb
    monkeypatch.setattr(decode, "_to_rgb", lambda image, **more: loaded.append(image.size) or real(image, **more))
    monkeypatch.setattr(decode, "LARGE_PIXELS", 1000)
    assert np.abs(decode_image(tmp_path / "a.jpg", [(24, 20)])[0].astype(int) - whole).max() <= 6
    assert loaded == [(100, 120)]
