from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligncut_cli.errors import BadInput, OutOfResources
from aligncut_cli.images.decode import Pixels, check_image, decode_image
from aligncut_cli.images.files import ImageFile, find_images, hash_images
from aligncut_cli.images.workers import ImageDecoder, check_images


def photo(height: int = 40, width: int = 60, seed: int = 0) -> Image.Image:
    """Smooth colours, so that JPEG keeps them within a few grey levels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(path: Path, image: Image.Image | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or photo()).save(path, **options)  # type: ignore[arg-type]
    return path


def ids(*inputs: Path) -> list[str]:
    return [file.id for file in find_images(inputs)]


# ---- which images


def test_a_folder_is_listed_recursively_and_sorted_by_id(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.PNG", "a.jpg", "B.webp", "c/d/e.tif", "a-b.jpg"):
        save(tmp_path / name)
    for name in (".hidden.jpg", ".git/x.jpg", "c/.DS_Store", "c/notes.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert ids(tmp_path) == ["B", "a", "a-b", "a/z", "b", "c/d/e"]
    assert all(file.path.is_file() for file in find_images([tmp_path]))


def test_the_suffix_is_kept_where_two_would_be_called_alike(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg", "x/a.jpg"):
        save(tmp_path / name)
    assert ids(tmp_path) == ["a.jpg", "a.png", "b", "x/a"]
    save(tmp_path / "a.jpg.png")
    assert ids(tmp_path) == ["a.jpg", "a.jpg.png", "a.png", "b.jpg", "x/a.jpg"]


def test_a_link_that_leads_back_to_its_folder_ends(tmp_path: Path) -> None:
    save(tmp_path / "in/a.jpg")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in/up").symlink_to(tmp_path, target_is_directory=True)
    assert sorted({file.path.resolve() for file in find_images([tmp_path / "in"])}) == [tmp_path / "in/a.jpg"]


def test_links_to_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "far/a.jpg")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "far", target_is_directory=True)
    assert ids(tmp_path / "in") == ["link/a"]


def test_a_list_keeps_its_order_and_is_relative_to_itself(tmp_path: Path) -> None:
    for name in ("p/b.jpg", "p/a.jpg", "q/c.jpg"):
        save(tmp_path / name)
    listing = tmp_path / "p/list.txt"
    listing.write_text("\ufeff# my photos\n\nb.jpg\n  ../q/c.jpg  \r\na.jpg\n", encoding="utf-8")
    files = find_images([listing])
    assert [file.id for file in files] == ["b", "c", "a"]
    assert [file.path.resolve() for file in files] == [tmp_path / name for name in ("p/b.jpg", "q/c.jpg", "p/a.jpg")]


def test_same_names_in_different_folders_get_the_path_below_the_shared_folder(tmp_path: Path) -> None:
    for name in ("p/a.jpg", "q/a.jpg", "q/r/b.png"):
        save(tmp_path / name)
    listing = tmp_path / "p/list.txt"
    listing.write_text("../q/a.jpg\na.jpg\n../q/r/b.png\n")
    assert ids(listing) == ["q/a", "p/a", "q/r/b"]
    assert ids(tmp_path / "p/a.jpg", tmp_path / "q/a.jpg") == ["p/a", "q/a"]
    assert ids(tmp_path / "p", tmp_path / "q") == ["p/a", "q/a", "q/r/b"]


def test_single_images_may_be_called_anything(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg").rename(tmp_path / "photo.dat")
    assert ids(tmp_path / "photo.dat") == ["photo"]


def test_an_input_that_gives_no_images_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file or folder"):
        find_images([tmp_path / "none"])
    with pytest.raises(BadInput, match=r"(?s)no images.*\.jpg.*Give a folder"):
        find_images([tmp_path])
    listing = tmp_path / "list.txt"
    listing.write_text("# nothing\n")
    with pytest.raises(BadInput, match="no images"):
        find_images([listing])
    listing.write_text("# one\nmissing.jpg\n")
    with pytest.raises(BadInput, match=r"list\.txt, line 2: no such file: missing\.jpg"):
        find_images([listing])
    listing.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        find_images([listing])


def test_an_image_given_twice_is_refused_since_rows_may_be_counted(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    listing = tmp_path / "list.txt"
    listing.write_text("a.jpg\n./a.jpg\n")
    with pytest.raises(BadInput, match="more than once"):
        find_images([listing])
    with pytest.raises(BadInput, match="more than once"):
        find_images([tmp_path, tmp_path / "a.jpg"])


@pytest.mark.parametrize("name", [b"a\nb.jpg", b"a\xff.jpg"])
def test_a_name_that_is_no_text_is_refused(tmp_path: Path, name: bytes) -> None:
    os.rename(save(tmp_path / "a.jpg"), os.path.join(os.fsencode(tmp_path), name))
    with pytest.raises(BadInput, match="no plain text"):
        find_images([tmp_path])


def test_hashes_are_the_files_sha256_in_order(tmp_path: Path) -> None:
    for name in "cab":
        save(tmp_path / f"{name}.png", photo(seed=ord(name)))
    files = find_images([tmp_path])
    seen: list[tuple[int, int]] = []
    expected = [hashlib.sha256((tmp_path / f"{name}.png").read_bytes()).hexdigest() for name in "abc"]
    assert hash_images(files, progress=lambda done, of: seen.append((done, of))) == expected
    assert seen == [(1, 3), (2, 3), (3, 3)]
    files[1].path.unlink()
    with pytest.raises(BadInput, match=r"b\.png"):
        hash_images(files)


# ---- their pixels


def test_images_are_resized_without_cropping_by_antialiased_bicubic_interpolation(tmp_path: Path) -> None:
    image = photo(300, 500)
    path = save(tmp_path / "a.png", image)
    small, large = decode_image(path, [(50, 70), (224, 224)])
    assert small.shape == (50, 70, 3)
    assert large.shape == (224, 224, 3)
    assert small.dtype == np.uint8
    # The slow twin: Keys' cubic (a = -0.5), stretched by the reduction so that it averages, one axis after the other.
    expected = _reduce(_reduce(np.asarray(image, dtype=np.float64), 70, axis=1), 50, axis=0)
    assert np.abs(small - np.clip(expected, 0, 255)).max() <= 1.0


def _reduce(values: np.ndarray, size: int, *, axis: int) -> np.ndarray:
    scale = values.shape[axis] / size
    places = np.arange(values.shape[axis]) + 0.5
    rows = []
    for target in range(size):
        x = np.abs(places - (target + 0.5) * scale) / scale
        weight = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))
        rows.append(np.tensordot(weight / weight.sum(), values, (0, axis)))
    return np.stack(rows, axis)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    upright = photo()
    operation = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # stored = upright turned by the inverse
    stored = upright.transpose(Image.Transpose(operation[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", stored, exif=exif.tobytes(), **options)
    assert check_image(path) == (40, 60)
    assert close(decode_image(path, [(40, 60)])[0], np.asarray(upright), 4)


def close(pixels: Pixels, expected: np.ndarray, tolerance: float) -> bool:
    return bool(np.abs(pixels.astype(float) - expected).max() <= tolerance)


def test_grey_palette_bilevel_and_16_bit_images_become_rgb(tmp_path: Path) -> None:
    grey = photo().convert("L")
    expected = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    assert close(decode_image(save(tmp_path / "l.png", grey), [(40, 60)])[0], expected, 0)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for name in ("deep.png", "deep.tif"):
        assert close(decode_image(save(tmp_path / name, deep), [(40, 60)])[0], expected, 0)
        assert check_image(tmp_path / name) == (40, 60)
    palette = photo().convert("P", palette=Image.Palette.ADAPTIVE)
    path = save(tmp_path / "p.png", palette)
    assert close(decode_image(path, [(40, 60)])[0], np.asarray(palette.convert("RGB")), 0)
    bilevel = grey.convert("1")
    path = save(tmp_path / "1.png", bilevel)
    assert close(decode_image(path, [(40, 60)])[0], np.asarray(bilevel.convert("RGB")), 0)


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    colours = np.asarray(photo()).astype(float)
    alpha = np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1))
    expected = colours * alpha[..., None] / 255.0 + 255.0 * (1 - alpha[..., None] / 255.0)
    rgba = photo()
    rgba.putalpha(Image.fromarray(alpha))
    for name in ("a.png", "a.tif"):
        assert close(decode_image(save(tmp_path / name, rgba), [(40, 60)])[0], expected, 1)
    grey = photo().convert("L")
    expected_grey = np.asarray(grey) * (alpha / 255.0) + 255.0 * (1 - alpha / 255.0)
    grey.putalpha(Image.fromarray(alpha))
    path = save(tmp_path / "la.png", grey)
    assert close(decode_image(path, [(40, 60)])[0], np.repeat(expected_grey[..., None], 3, axis=2), 1)
    palette = Image.new("P", (60, 40), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.paste(1, (0, 0, 30, 40))
    for path in (save(tmp_path / "p.png", palette, transparency=0), save(tmp_path / "p.gif", palette, transparency=0)):
        pixels = decode_image(path, [(40, 60)])[0]
        assert pixels[0, 0].tolist() == [40, 50, 60]
        assert pixels[0, 59].tolist() == [255, 255, 255]


def test_cmyk_and_the_first_frame_of_animations_are_read(tmp_path: Path) -> None:
    path = save(tmp_path / "c.jpg", photo().convert("CMYK"), quality=100, subsampling=0)
    assert close(decode_image(path, [(40, 60)])[0], np.asarray(photo()), 6)
    first = Image.new("RGB", (60, 40), (200, 10, 10))
    path = save(tmp_path / "a.webp", first, save_all=True, append_images=[photo()], lossless=True)
    assert decode_image(path, [(40, 60)])[0][20, 30].tolist() == [200, 10, 10]
    assert check_image(path) == (40, 60)


def test_32_bit_images_are_refused_since_their_range_is_unknown(tmp_path: Path) -> None:
    path = save(tmp_path / "f.tif", Image.fromarray(np.random.default_rng(0).random((40, 60), np.float32)))
    for read in (check_image, lambda path: decode_image(path, [(8, 8)])):
        with pytest.raises(BadInput, match=r"f\.tif.*32 bits"):
            read(path)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.tif", "a.bmp"])
def test_truncated_files_are_found_by_the_check(tmp_path: Path, name: str) -> None:
    whole = save(tmp_path / name, photo(200, 300)).read_bytes()
    assert check_image(tmp_path / name) == (200, 300)
    for share in (0.0, 0.02, 0.5, 0.9):
        path = tmp_path / f"cut-{name}"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(BadInput, match=f"cannot decode the image .*cut-{name}"):
            check_image(path)
        with pytest.raises(BadInput, match=f"cut-{name}"):
            decode_image(path, [(8, 8)])


def test_what_is_no_image_is_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("<html>not found</html>")
    with pytest.raises(BadInput, match=r"no image of a format"):
        check_image(path)
    path.write_bytes(b"")
    with pytest.raises(BadInput, match=r"it is empty"):
        check_image(path)
    with pytest.raises(BadInput, match=r"No such file"):
        check_image(tmp_path / "none.jpg")


def test_a_decompression_bomb_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", photo(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6_000)
    assert check_image(path) == (100, 100)  # Pillow only warns up to twice its limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    with pytest.raises(BadInput, match=r"a\.png.*bomb"):
        check_image(path)
    with pytest.raises(BadInput, match=r"a\.png.*bomb"):
        decode_image(path, [(8, 8)])


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp", "ppm"])
def test_damaged_files_raise_nothing_but_bad_input(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"a.{suffix}").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / f"b.{suffix}"
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(len(whole), 400), rng.integers(1, 6)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        for read in (check_image, lambda path: decode_image(path, [(8, 8)])):
            with contextlib.suppress(BadInput):
                read(path)


def test_checking_names_all_bad_images_or_leaves_them_out(tmp_path: Path) -> None:
    for index in range(5):
        save(tmp_path / f"{index}.jpg", photo(40 + index, 60))
    for index in (1, 3):
        (tmp_path / f"{index}.jpg").write_bytes(b"broken")
    files = find_images([tmp_path])
    with pytest.raises(BadInput, match=r"(?s)2 of 5 images.*1\.jpg.*3\.jpg.*--skip-bad"):
        check_images(files, workers=0, skip_bad=False)
    seen: list[tuple[int, int]] = []
    good, sizes, bad = check_images(
        files, workers=1, skip_bad=True, progress=lambda done, count: seen.append((done, count))
    )
    assert [file.id for file in good] == ["0", "2", "4"]
    assert sizes == [(40, 60), (42, 60), (44, 60)]
    assert [file.id for file, _ in bad] == ["1", "3"]
    assert all("no image" in reason for _, reason in bad)
    assert seen[-1] == (5, 5)
    with pytest.raises(BadInput, match="2 of 2 images"):
        check_images([file for file, _ in bad], workers=0, skip_bad=True)


# ---- worker processes


@pytest.fixture
def many(tmp_path: Path) -> list[ImageFile]:
    for index in range(24):
        save(tmp_path / f"{index:02}.png", photo(20, 30, seed=index))
    return find_images([tmp_path])


def test_the_decoded_images_do_not_depend_on_the_number_of_workers(many: list[ImageFile]) -> None:
    sizes = [(16, 16), (8, 12)]
    results = []
    for workers, ahead in ((0, 1), (1, 1), (2, 5), (3, 100)):
        with ImageDecoder(many, sizes, workers=workers, ahead=ahead) as decoder:
            results.append([np.concatenate([copy.reshape(-1) for copy in copies]) for copies in decoder])
    expected = [np.concatenate([copy.reshape(-1) for copy in decode_image(file.path, sizes)]) for file in many]
    for result in results:
        assert len(result) == len(many)
        assert all(np.array_equal(a, b) for a, b in zip(result, expected, strict=True))


def test_a_bad_image_raises_in_its_place_and_the_workers_end(many: list[ImageFile]) -> None:
    many[7].path.write_bytes(b"broken")
    decoder = ImageDecoder(many, [(8, 8)], workers=2, ahead=20)
    seen = 0
    with pytest.raises(BadInput, match=r"07\.png"), decoder:  # noqa: PT012
        for _ in decoder:
            seen += 1
    assert seen == 7


def test_leaving_early_ends_the_workers_at_once(many: list[ImageFile]) -> None:
    started = time.monotonic()
    with ImageDecoder(many, [(8, 8)], workers=2) as decoder:
        next(iter(decoder))
    assert time.monotonic() - started < 10


_CONSUMER = """
import os, sys, time
from pathlib import Path
from aligncut_cli.images.files import find_images
from aligncut_cli.images.workers import ImageDecoder

if __name__ == "__main__":
    with ImageDecoder(find_images([Path(sys.argv[1])]), [(8, 8)], workers=2, ahead=4) as decoder:
        images = iter(decoder)
        next(images)
        print(*decoder._pool._executor._processes, flush=True)
        time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ignores_ctrl_c(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    ignored = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
    return bool(ignored & 1 << signal.SIGINT - 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(many: list[ImageFile], tmp_path: Path, kill: signal.Signals) -> None:
    script = tmp_path / "consumer.py"
    script.write_text(_CONSUMER)
    sockets = tmp_path / "s"
    sockets.mkdir()
    parent = subprocess.Popen(
        [sys.executable, script, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(sockets)},
    )  # fmt: skip
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert workers
    if kill == signal.SIGINT:
        begun = time.monotonic() + 20
        while not all(map(ignores_ctrl_c, workers)) and time.monotonic() < begun:
            time.sleep(0.05)  # one that still imports would print its own trace
        os.killpg(parent.pid, kill)  # as a terminal's Ctrl-C does
    else:
        os.kill(parent.pid, kill)
    _, stderr = parent.communicate(timeout=20)
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))
    assert not list(sockets.glob("pymp-*"))
    if kill == signal.SIGINT:
        assert stderr.count("KeyboardInterrupt") == 1  # the parent's own


@pytest.mark.skipif(sys.platform != "linux", reason="kills by signal")
def test_a_worker_that_dies_is_an_error_and_not_a_hang(many: list[ImageFile]) -> None:
    decoder = ImageDecoder(many, [(8, 8)], workers=1, ahead=2)
    with pytest.raises(OutOfResources, match="a worker process died"), decoder:  # noqa: PT012
        images = iter(decoder)
        next(images)
        assert decoder._pool._executor is not None
        for pid in decoder._pool._executor._processes:
            os.kill(pid, signal.SIGKILL)
        list(images)
