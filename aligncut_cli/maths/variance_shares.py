"""How much of the variance of rows of tokens their slot explains, and how much their photo (between over total)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Below this share of the mean square the variance is rounding of float32 rows, and no share of it means anything.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Shares:
    """Shares of the variance about the grand mean, 0 to 1; None where there are no two groups, or no variance.

    slot  : between the means of slots (a space that is shared has little)
    photo : between the means of photos
    """

    slot: float | None
    photo: float | None

    def as_record(self) -> dict[str, float | None]:
        """Return them as JSON values."""
        return asdict(self)

    def describe(self) -> str:
        """Say both in a line."""
        return ", ".join(
            f"{name}s {'not defined' if share is None else f'{share:.3f}'}" for name, share in asdict(self).items()
        )


def mean_shares(records: Iterable[Mapping[str, float | None]]) -> Shares:
    """Return the means over several graphs' records of shares, each over those graphs that have it."""
    found = list(records)
    known = {name: [value for record in found if (value := record[name]) is not None] for name in ("slot", "photo")}
    return Shares(**{name: float(np.mean(values)) if values else None for name, values in known.items()})


class VarianceShares:
    """Both shares from sums of rows, added photo by photo; memory is (slot, channel).

    With S_g the sum and n_g the number of rows of group g, S and n those of all: the sum of squares between groups is
    sum_g |S_g|^2 / n_g - |S|^2 / n, and the total sum_i |x_i|^2 - |S|^2 / n. Rows whose slot is drawn at random give
    (groups - 1) / (n - 1) on average.

    n_tokens : (slot,) rows of each slot in one photo
    """

    def __init__(self, n_tokens: NDArray[np.integer]) -> None:
        self._n_tokens = np.asarray(n_tokens, dtype=np.int64)
        self._slots: NDArray[np.float64] | None = None
        self._photos = 0.0
        self._squares = 0.0
        self._n_photos = 0

    def add(self, sums: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Add photos, each with all its slots.

        sums    : (slot, photo, C) sums of their tokens' rows
        squares : (slot, photo) sums of the rows' squared lengths
        """
        by_slot = sums.sum(axis=1)
        self._slots = by_slot if self._slots is None else self._slots + by_slot
        self._photos += float(np.square(sums.sum(axis=0)).sum()) / int(self._n_tokens.sum())
        self._squares += float(squares.sum())
        self._n_photos += sums.shape[1]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what was summed, for `merge`; nothing where no photos were added."""
        if self._slots is None:
            return {}
        return {"slots": self._slots, "totals": np.array([self._photos, self._squares]), "n": np.array(self._n_photos)}

    def merge(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Add what another has of other photos; photos added one by one, or merged in their order, give one result."""
        if state:
            self._slots = state["slots"] if self._slots is None else self._slots + state["slots"]
            self._photos += float(state["totals"][0])
            self._squares += float(state["totals"][1])
            self._n_photos += int(state["n"])

    def result(self) -> Shares:
        """Return the shares."""
        if self._slots is None:
            return Shares(None, None)
        counts = self._n_tokens * self._n_photos
        grand = float(np.square(self._slots.sum(axis=0)).sum()) / int(counts.sum())
        total = self._squares - grand
        if total <= _ROUNDING * self._squares:
            return Shares(None, None)
        slots = float((np.square(self._slots).sum(axis=1) / counts).sum())

        def share(between: float, groups: int) -> float | None:
            return float(np.clip((between - grand) / total, 0, 1)) if groups > 1 else None

        return Shares(share(slots, len(counts)), share(self._photos, self._n_photos))
