"""Cosine similarity of the same token in every pair of slots (Fig. 3), summed over a stream of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class SlotSimilarity:
    """Mean cosine between slots over all tokens added; slots of different widths have none (NaN).

    n_slots : slots, in the order of the blocks' rows
    """

    def __init__(self, n_slots: int) -> None:
        self._sums = np.zeros((n_slots, n_slots))
        self._count = 0

    def add(self, units: Sequence[torch.Tensor]) -> None:
        """Add a block of tokens.

        units : per slot (n, D_i) unit or zero rows, row k the same (image, token) in every slot
        """
        for width in {unit.shape[1] for unit in units}:
            same = [i for i, unit in enumerate(units) if unit.shape[1] == width]
            # The sum over tokens of inner products is one product of the slots with tokens and channels flattened.
            flat = torch.stack([units[i] for i in same]).flatten(1)
            self._sums[np.ix_(same, same)] += (flat @ flat.T).double().cpu().numpy()
        comparable = np.array([[a.shape[1] == b.shape[1] for b in units] for a in units])
        self._sums[~comparable] = np.nan
        self._count += len(units[0])

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what was summed, for `merge`."""
        return {"sums": self._sums, "count": np.array(self._count)}

    def merge(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Add what another has summed; blocks of tokens added one by one, or merged in their order, give one result."""
        self._sums = self._sums + state["sums"]
        self._count += int(state["count"])

    def result(self) -> NDArray[np.float64]:
        """Return (slots, slots) mean cosines."""
        return self._sums / max(self._count, 1)


def mean_between_models(similarity: NDArray[np.float64], models: Sequence[str]) -> float | None:
    """Return the mean over pairs of slots of different models, or None where there is no comparable pair.

    similarity : (slots, slots)
    models     : of each slot
    """
    names = np.array(models)
    values = similarity[(names[:, None] != names[None, :]) & np.isfinite(similarity)]
    return float(values.mean()) if values.size else None
