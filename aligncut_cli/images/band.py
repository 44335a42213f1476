"""Photos with some of their spatial frequencies only: which scale of structure carries what is found."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import UsageError

_SOFTNESS = 0.1
"""Share of the cutoff over which the filter falls, so that edges do not ring."""


class Band(NamedTuple):
    """Frequencies to keep: `low` those below the cutoff, `high` those above it and the mean colour.

    cutoff : cycles per pixel of the picture that is filtered, above 0 and at most 0.5
    """

    side: Literal["low", "high"]
    cutoff: float

    def of_reduced(self, factor: float) -> Band:
        """Return the same band of a picture that was made smaller by a factor."""
        return self._replace(cutoff=min(0.5, self.cutoff * factor))

    def __str__(self) -> str:
        return f"{self.side}:{self.cutoff:g}"


def parse_band(text: str) -> Band:
    """Read `low:0.08` or `high:0.08`.

    raises : UsageError where it is neither
    """
    side, _, number = text.partition(":")
    try:
        cutoff = float(number)
    except ValueError:
        cutoff = 0.0
    if side not in ("low", "high") or not 0 < cutoff <= 0.5:
        raise UsageError(
            f"--band {text!r} is no band of frequencies",
            do="Write low:C or high:C with C in cycles per pixel, above 0 and at most 0.5, such as low:0.08.",
        )
    return Band("low" if side == "low" else "high", cutoff)


def filter_band(picture: NDArray[np.uint8], band: Band) -> NDArray[np.uint8]:
    """Keep a band of a picture's frequencies; the gain at frequency f is 1 / (1 + exp((f - c) / (c / 10))) for `low`.

    Edges are mirrored, so that the picture has no seam. `high` keeps the mean colour.

    picture : (h, w, 3)
    returns : (h, w, 3), clipped to 0..255
    """
    height, width = picture.shape[:2]
    mirrored = np.concatenate([picture, picture[:, ::-1]], axis=1)
    mirrored = np.concatenate([mirrored, mirrored[::-1]], axis=0).astype(np.float64)
    frequency = np.hypot(np.fft.fftfreq(2 * height)[:, None], np.fft.rfftfreq(2 * width)[None])
    low = 1 / (1 + np.exp(np.clip((frequency - band.cutoff) / (_SOFTNESS * band.cutoff), -50, 50)))
    gain = low if band.side == "low" else 1 - low
    gain[0, 0] = 1
    kept = np.fft.irfft2(np.fft.rfft2(mirrored, axes=(0, 1)) * gain[..., None], s=mirrored.shape[:2], axes=(0, 1))
    return np.clip(np.rint(kept[:height, :width]), 0, 255).astype(np.uint8)
