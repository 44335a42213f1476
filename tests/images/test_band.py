"""Bands of spatial frequency: gratings inside are kept and those outside removed."""

from __future__ import annotations

import numpy as np
import pytest

from aligncut_cli.errors import UsageError
from aligncut_cli.images.band import filter_band, parse_band


def grating(frequency: float) -> np.ndarray:
    wave = 128 + 60 * np.cos(2 * np.pi * frequency * (np.arange(64) + 0.5))
    return np.rint(np.broadcast_to(wave[None, :, None], (48, 64, 3))).astype(np.uint8)


@pytest.mark.parametrize("turned", [False, True])
def test_low_and_high_keep_their_side_of_the_cutoff(turned: bool) -> None:
    for frequency, kept, removed in ((1 / 32, "low", "high"), (0.25, "high", "low")):
        picture = grating(frequency)
        picture = picture.transpose(1, 0, 2) if turned else picture
        np.testing.assert_allclose(filter_band(picture, parse_band(f"{kept}:0.1")), picture, atol=2)
        assert filter_band(picture, parse_band(f"{removed}:0.1")).std() < 1
        assert abs(float(filter_band(picture, parse_band(f"{removed}:0.1")).mean()) - picture.mean()) < 1


def test_both_bands_add_up_to_the_picture() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(90, 160, (30, 41, 3)).astype(np.uint8)
    low, high = (filter_band(picture, parse_band(f"{side}:0.15")).astype(float) for side in ("low", "high"))
    np.testing.assert_allclose(low + high - picture.mean(axis=(0, 1)), picture, atol=2.5)


@pytest.mark.parametrize("text", ["low", "low:0", "high:0.6", "mid:0.1", "low:x", "low:nan"])
def test_what_is_no_band_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no band"):
        parse_band(text)
