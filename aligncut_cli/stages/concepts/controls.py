"""Controls of `concepts`: fits that cannot know the images, read out for the same members of the same concepts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.concepts import RoiCorrespondence, score_roi_correspondence
from aligncut_cli.stages.concepts.members import SlotMembers
from aligncut_cli.stages.space import FeatureSpace
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.nodes import Slot
from aligncut_cli.store.read import Store

MADE_BY = "aligncut align F.zarr -o C.zarr --control shuffle --repeat N, with the options of the fit itself"


class ControlFits:
    """Every fit of some alignments that were made with --control.

    stores : these alignments
    real   : the alignment that they are controls of
    space  : the features it maps
    slots  : that have members
    """

    def __init__(self, stores: Sequence[Store], real: Alignment, space: FeatureSpace, slots: Sequence[Slot]) -> None:
        self.alignments, self.slots = [Alignment(store) for store in stores], slots
        if stores and space.alignment is None:
            raise UsageError(
                f"{space.path} is mapped by one alignment, and --controls map features by others",
                do="Give --features as they were extracted.",
            )
        if len({store.as_input.digest for store in stores}) < len(stores):
            raise UsageError("the same alignment is among the --controls twice", do="Name each once.")
        for control in self.alignments:
            path = control.store.path
            if not control.store.record.get("controls"):
                raise BadInput(f"{path} is no control but a fit to the responses", do=f"Make controls by: {MADE_BY}")
            control.require_readout("--controls")
            if control.shape[1] != real.shape[1]:
                raise BadInput(
                    f"{path} predicts {control.shape[1]} voxels, and {real.store.path} {real.shape[1]}",
                    do=f"Make controls by: {MADE_BY}",
                )
            FeatureSpace.universal(space.features.store, control.store, space.device).require()

    @property
    def count(self) -> int:
        """Return how many fits there are."""
        return sum(control.n_fits for control in self.alignments)

    def score(self, members: Sequence[SlotMembers], rois: NDArray[np.bool_]) -> list[RoiCorrespondence]:
        """Score the concepts' correspondence to the ROIs under every fit.

        members : of every slot
        rois    : (roi, voxel)
        """
        return [score_roi_correspondence(mean, rois) for mean in self._activate(members)]

    def _activate(self, members: Sequence[SlotMembers]) -> Iterator[NDArray[np.float64]]:
        """Give (concept, voxel) mean activations under every fit; maps are linear, so sums of features are enough."""
        counts = np.sum([found.counts for found in members], axis=0)
        scale = np.where(counts > 0, 1 / np.maximum(counts, 1), np.nan)[:, None]
        for control in self.alignments:
            for fit in range(control.n_fits):
                total = np.zeros((len(counts), control.shape[0]))
                for slot, found in zip(self.slots, members, strict=True):
                    position = control.layers(slot.model).index(slot.layer)
                    total += found.sums @ control.read_weight(slot.model, position, fit=fit).astype(np.float64)
                yield (total * scale) @ control.read_readout(fit=fit).astype(np.float64)
