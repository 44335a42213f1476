"""Joins the responses of one or several subjects to the images of the features, voxels side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aligncut_cli.brain.join import JoinedImages, join_images
from aligncut_cli.brain.table import Bool, Float, Index, Responses
from aligncut_cli.errors import BadInput


@dataclass(frozen=True)
class JoinedResponses:
    """Responses of all subjects to the images that all of them saw.

    parts        : by the subject's name, which is empty where a single one has none
    feature_rows : (images,) ascending positions in the feature store
    rows         : for every subject (images,), which row is of each
    joined       : for every subject, by which rule
    """

    parts: Mapping[str, Responses]
    feature_rows: Index
    rows: Mapping[str, Index]
    joined: Mapping[str, JoinedImages]

    @property
    def n_voxels(self) -> int:
        """Return how many voxels all subjects have together."""
        return sum(part.shape[1] for part in self.parts.values())

    @property
    def rois(self) -> dict[str, Bool]:
        """Return name -> (voxels,): of a named subject all its voxels as NAME, and its regions as NAME.ROI."""
        found: dict[str, Bool] = {}
        first = 0
        for name, part in self.parts.items():
            own = slice(first, first + part.shape[1])
            inner = {f"{name}.{roi}" if name else roi: mask for roi, mask in part.rois.items()}
            whole = {name: np.ones(part.shape[1], dtype=bool)} if name else {}
            for roi, mask in (whole | inner).items():
                found[roi] = np.zeros(self.n_voxels, dtype=bool)
                found[roi][own] = mask
            first = own.stop
        return found

    @property
    def noise_ceiling(self) -> Float | None:
        """Return (voxels,) the explainable share of variance, or None where no subject has one.

        raises : BadInput where only some have one
        """
        found = {name: part.noise_ceiling for name, part in self.parts.items()}
        known = [ceiling for ceiling in found.values() if ceiling is not None]
        if known and len(known) < len(found):
            lacking = [name for name, ceiling in found.items() if ceiling is None]
            raise BadInput(
                f"{', '.join(lacking)} has no noise ceiling, and other subjects have",
                do=f"Give one for all: --noise-ceiling {lacking[0]}=FILE",
            )
        return np.concatenate(known) if known else None

    @property
    def record(self) -> dict[str, Any]:
        """Return what was read and how it was joined, for the store."""
        records = {
            name: dict(part.record) | {"pairing": dict(self.joined[name].record)} for name, part in self.parts.items()
        }
        return records[""] if list(records) == [""] else {"subjects": records}

    def describe(self) -> list[str]:
        """Say every pairing in a line, so that a reader can see whether it is right."""
        return [f"{name}: {part.describe()}" if name else part.describe() for name, part in self.joined.items()]

    def read(self, images: npt.ArrayLike) -> Float:
        """Read some of the images, (n, voxels) float32.

        images : (n,) positions in `feature_rows`, any order
        """
        index = np.asarray(images, dtype=np.int64)
        return np.concatenate([part.read(self.rows[name][index]) for name, part in self.parts.items()], axis=1)


def join_subjects(
    feature_ids: Sequence[str], parts: Mapping[str, Responses], *, paths: Sequence[str] | None, order: str | None
) -> JoinedResponses:
    """Match images and every subject's responses; of several subjects, images that some did not see are left out.

    feature_ids : ids of the feature store
    paths       : where the images were, in the order of the ids
    order       : as of `join_images`
    raises      : BadInput where a single subject lacks an image, or no image was seen by all
    """
    joined = {
        name: join_images(
            feature_ids,
            part.ids,
            n_responses=part.shape[0],
            paths=paths,
            order=order,
            usable=part.usable,
            partial=len(parts) > 1,
        )
        for name, part in parts.items()
    }
    seen = set.intersection(*(set(part.feature_rows.tolist()) for part in joined.values()))
    if not seen:
        raise BadInput("No image was seen by all subjects.", do="Align the subjects one by one.")
    shared = np.array(sorted(seen), dtype=np.int64)
    rows = {name: part.response_rows[np.searchsorted(part.feature_rows, shared)] for name, part in joined.items()}
    return JoinedResponses(parts, shared, rows, joined)
