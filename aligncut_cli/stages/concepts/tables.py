"""What the members of the concepts say: where they are, activations of voxels and areas, how the areas explain them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import format_table
from aligncut_cli.controls import title_with_controls
from aligncut_cli.maths.activations import average_over_roi
from aligncut_cli.maths.concepts import (
    ConceptMoments,
    ControlComparison,
    RoiCorrespondence,
    compare_with_controls,
    relate_magnitude_to_deviation,
    score_roi_correspondence,
)
from aligncut_cli.maths.finite import finite_or_none
from aligncut_cli.stages.concepts.controls import ControlFits
from aligncut_cli.stages.concepts.members import SlotMembers
from aligncut_cli.stages.patches import Centres
from aligncut_cli.stages.regions import place_regions
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.store.nodes import Slot
from aligncut_cli.viz.concept_plots import plot_concept_rois, plot_magnitude_and_deviation
from aligncut_cli.viz.figures import save_figure
from aligncut_cli.viz.style import FigureStyle

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Readout:
    """Activations of the concepts' members in the brain's space.

    mean, deviation : (concept, voxel), NaN for a concept without members
    rho             : (concept,) rank correlation of |mean| and deviation over voxels
    roi_names       : of the regions that have voxels, and in `rois` their voxels (roi, voxel)
    scored          : how well regions explain the concepts; None where there are fewer than two
    compared        : the same beside controls; None without them
    """

    mean: Floats
    deviation: Floats
    rho: Floats
    roi_names: list[str]
    rois: NDArray[np.bool_]
    scored: RoiCorrespondence | None
    compared: ControlComparison | None

    @classmethod
    def of(
        cls, moments: ConceptMoments, alignment: Alignment, members: Sequence[SlotMembers], controls: ControlFits
    ) -> Readout:
        """Read the members' features out to voxels, and compare the concepts with the regions."""
        mean, deviation = moments.activate(alignment.read_readout())
        names, rois = alignment.stack_rois(with_all=False)
        rho = relate_magnitude_to_deviation(mean, deviation)
        scored = score_roi_correspondence(mean, rois) if len(rois) >= 2 else None
        compared = None
        if scored is not None and controls.count:
            compared = compare_with_controls(scored, controls.score(members, rois))
        return cls(mean, deviation, rho, names, rois, scored, compared)

    def summary(self) -> dict[str, Any]:
        """Return the figures that the record keeps."""
        compared = self.compared
        return {
            "mean_rho": finite_or_none(float(np.nanmean(self.rho))) if np.isfinite(self.rho).any() else None,
            "roi_correspondence": None if self.scored is None else finite_or_none(self.scored.score),
            "control_fits": 0 if compared is None else len(compared.null),
            "control_correspondence": None if compared is None else finite_or_none(float(compared.null.mean())),
            "roi_p": None if compared is None else finite_or_none(compared.p),
        }

    def describe(self) -> str:
        """Return how well regions explain concepts, and what that shows; empty where there are too few regions."""
        if self.scored is None:
            return ""
        score = f"ROIs explain {self.scored.score:.3f} of the variance of concepts over voxels"
        if self.compared is None:
            return (
                f"{score}; alone that cannot show that concepts follow the brain, because the voxels of an ROI respond "
                "alike whatever is read out to them: --controls tells what fits to shuffled responses score"
            )
        null = self.compared.null
        return (
            f"{score}; {len(null)} controls {null.min():.3f} to {null.max():.3f}, mean {null.mean():.3f}, "
            f"p = {self.compared.p:.4f} (no p is below {1 / (1 + len(null)):.4f})"
        )


@dataclass(frozen=True)
class Findings:
    """What is known of the concepts.

    members : of every slot
    readout : what the brain says of them; None where there is no readout
    least   : tokens that a concept must hold in order not to be marked
    """

    centres: Centres
    slots: Sequence[Slot]
    members: Sequence[SlotMembers]
    readout: Readout | None
    least: int

    @property
    def counts(self) -> NDArray[np.int64]:
        """Return (concept,) members of all slots."""
        counts: NDArray[np.int64] = np.sum([found.counts for found in self.members], axis=0)
        return counts

    @property
    def few(self) -> NDArray[np.bool_]:
        """Return (concept,) which concepts rest on few tokens."""
        return self.counts < self.least

    def summary(self) -> dict[str, Any]:
        """Return the figures that the record keeps."""
        read_out = {} if self.readout is None else self.readout.summary()
        return {"members": int(self.counts.sum()), "few": int(self.few.sum()), **read_out}

    def write(self, folder: Path, *, style: FigureStyle, controls: Sequence[str]) -> None:
        """Write arrays, tables and plots of slots, voxels and areas."""
        write_csv(folder / "concepts.csv", *self._tabulate(), controls=controls)
        self._write_slots(folder, controls=controls)
        found = self.readout
        if found is None:
            return
        np.save(folder / "mean.npy", found.mean)
        np.save(folder / "deviation.npy", found.deviation)
        if found.roi_names:
            self._write_rois(folder, found, style=style, controls=controls)
        figure = plot_magnitude_and_deviation(found.mean, found.deviation, found.rho, style=style, controls=controls)
        save_figure(figure, style.file(folder, "magnitude"))

    def as_text(self, *, controls: Sequence[str]) -> str:
        """Return the table of the concepts."""
        return format_table(*self._tabulate(), title=title_with_controls("", controls))

    def _tabulate(self) -> tuple[list[str], list[list[object]]]:
        """Return header and rows, a concept each."""
        rows: list[list[object]] = []
        found = self.readout
        for index, centre in enumerate(self.centres.places):
            row = [index, *(float(value) for value in centre), self.centres.radius]
            rows.append([*row, int(self.counts[index]), int(self.few[index])])
            if found is not None:
                share = None if found.scored is None else found.scored.by_concept[index]
                p = None if found.compared is None else found.compared.p_concept[index]
                rows[-1] += [finite_or_none(value) for value in (found.rho[index], share, p)]
        axes = ["x", "y", "z"][: self.centres.places.shape[1]]
        header = ["concept", *axes, "radius", "tokens", "few"] + ([] if found is None else ["rho", "roi share", "p"])
        return header, rows

    def _write_slots(self, folder: Path, *, controls: Sequence[str]) -> None:
        """Write how many tokens of every slot each concept holds."""
        rows = [
            [concept, str(slot), int(count), int(count < self.least)]
            for slot, found in zip(self.slots, self.members, strict=True)
            for concept, count in enumerate(found.counts)
        ]
        write_csv(folder / "slots.csv", ["concept", "slot", "tokens", "few"], rows, controls=controls)

    def _write_rois(self, folder: Path, found: Readout, *, style: FigureStyle, controls: Sequence[str]) -> None:
        mean, deviation = average_over_roi(found.mean, found.rois), average_over_roi(found.deviation, found.rois)
        scored, compared = found.scored, found.compared
        rows: list[list[object]] = []
        for (concept, roi), value in np.ndenumerate(mean):
            place = concept, roi
            contrast = None if scored is None else float(scored.contrast[place])
            tests = (None, None) if compared is None else (float(compared.z[place]), float(compared.p_roi[place]))
            numbers = map(finite_or_none, (contrast, *tests))
            rows.append([concept, found.roi_names[roi], value, deviation[place], int(self.few[concept]), *numbers])
        header = ["concept", "roi", "mean", "deviation", "few", "contrast", "z", "p"]
        write_csv(folder / "rois.csv", header, rows, controls=controls)
        places = place_regions(found.roi_names)
        p_roi = None if compared is None else compared.p_roi[:, places]
        names = [found.roi_names[at] for at in places]
        shown = mean[:, places], deviation[:, places], p_roi
        figure = plot_concept_rois(names, *shown, self.few, style=style, controls=controls)
        save_figure(figure, style.file(folder, "rois"))
