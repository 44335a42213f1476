"""What one fold's fit leaves behind: everything that ranking its held-out images needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.maths.retrieval import standardize_rows

Floats = NDArray[np.float32]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class FoldFit:
    """A fit's held-out images; the similarity of a response and an image is linear in the neurons.

    responses  : (n, neurons) z-scored by the training images
    candidates : (n, d) predicted responses of each image, d = neurons; or its map, flat and centred
    weight     : (neurons, d) of the map of responses; (0, 0) where candidates are predicted responses
    activity   : (neurons,) mean response to the training images, in the responses' unit
    maps       : (n, channel, row, column) of each image; (0, 0, 0, 0) of a ridge
    look       : (neurons, row, column) where each neuron looks; (0, 0, 0) of a ridge
    record     : figures of the fit, for the store's record
    """

    responses: Floats
    candidates: Floats
    weight: Floats
    activity: Floats
    maps: Floats
    look: Floats
    record: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write the arrays to an .npz; the record is kept elsewhere."""
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **{name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, path: Path, record: Mapping[str, Any]) -> FoldFit:
        """Read it back."""
        with np.load(path) as saved:
            return cls(**{name: saved[name] for name in ARRAYS}, record=record)

    @property
    def by_map(self) -> bool:
        """Return whether responses are mapped to where the images are, instead of images to responses."""
        return bool(self.weight.size)

    def select(self, neurons: Index) -> FoldFit:
        """Return what is left where all other neurons are silent: at their mean, or not compared."""
        if self.by_map:
            return replace(self, responses=self.responses[:, neurons], weight=self.weight[neurons])
        return replace(self, responses=self.responses[:, neurons], candidates=self.candidates[:, neurons])

    def compare(self) -> tuple[Floats, Floats]:
        """Return rows of responses and of images, (n, d) each, whose inner products are the similarities."""
        if self.by_map:
            queries = standardize_rows(self.responses @ self.weight, centre=False)
            return queries, standardize_rows(self.candidates, centre=False)
        return standardize_rows(self.responses), standardize_rows(self.candidates)

    def scaled_responses(self) -> Floats:
        """Return responses, (n, neurons), each divided by the length of what it is mapped to."""
        if not self.by_map:
            return standardize_rows(self.responses)
        length = np.linalg.norm(self.responses @ self.weight, axis=1, keepdims=True)
        return np.asarray(self.responses / np.where(length > 0, length, 1), dtype=np.float32)


ARRAYS = ("responses", "candidates", "weight", "activity", "maps", "look")
