"""What the members of the concepts say: activations of voxels and areas, and how well the areas explain them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.controls import title_with_controls
from aligncut_cli.maths.activations import average_over_roi
from aligncut_cli.maths.concepts import (
    ConceptMoments,
    RoiCorrespondence,
    relate_magnitude_to_deviation,
    score_roi_correspondence,
)
from aligncut_cli.maths.finite import finite_or_none
from aligncut_cli.stages.patches import Centres
from aligncut_cli.store.folder import write_csv
from aligncut_cli.store.kinds.alignment import Alignment
from aligncut_cli.viz.concept_plots import plot_concept_rois, plot_magnitude_and_deviation
from aligncut_cli.viz.figures import save_figure

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Findings:
    """Activations of the concepts' members.

    counts          : (concept,) members
    mean, deviation : (concept, voxel), NaN for a concept without members
    rho             : (concept,) rank correlation of |mean| and deviation over voxels
    roi_names       : of the regions that have voxels, and in `rois` their voxels (roi, voxel)
    tested          : whether regions explain the concepts; None where there are fewer than two
    """

    centres: Centres
    counts: NDArray[np.int64]
    mean: Floats
    deviation: Floats
    rho: Floats
    roi_names: list[str]
    rois: NDArray[np.bool_]
    tested: RoiCorrespondence | None

    @classmethod
    def of(
        cls, centres: Centres, moments: ConceptMoments, alignment: Alignment, *, n_permutations: int, seed: int
    ) -> Findings:
        """Read the members' features out to voxels, and test the concepts against the regions."""
        mean, deviation = moments.activate(alignment.read_readout())
        names, rois = alignment.stack_rois(with_all=False)
        tested = None
        if len(rois) >= 2:
            tested = score_roi_correspondence(mean, rois, n_permutations=n_permutations, seed=seed)
        rho = relate_magnitude_to_deviation(mean, deviation)
        return cls(centres, moments.counts, mean, deviation, rho, names, rois, tested)

    def summary(self) -> dict[str, Any]:
        """Return the figures that the record keeps."""
        return {
            "members": int(self.counts.sum()),
            "mean_rho": finite_or_none(float(np.nanmean(self.rho))) if np.isfinite(self.rho).any() else None,
            "roi_correspondence": None if self.tested is None else finite_or_none(self.tested.score),
            "roi_p": None if self.tested is None else finite_or_none(self.tested.p),
        }


def write_findings(folder: Path, found: Findings, *, controls: Sequence[str], console: Console) -> None:
    """Write arrays, tables and plots of voxels and areas, and show the concepts."""
    np.save(folder / "mean.npy", found.mean)
    np.save(folder / "deviation.npy", found.deviation)
    _write_concepts(folder, found, controls=controls, console=console)
    if found.roi_names:
        _write_rois(folder, found, controls=controls)
    figure = plot_magnitude_and_deviation(found.mean, found.deviation, found.rho, controls=controls)
    save_figure(figure, folder / "magnitude.png")


def _write_concepts(folder: Path, found: Findings, *, controls: Sequence[str], console: Console) -> None:
    rows: list[list[object]] = []
    radius, tested = found.centres.radius, found.tested
    for index, centre in enumerate(found.centres.places):
        share, p = (None, None) if tested is None else (tested.by_concept[index], tested.p_concept[index])
        numbers = [finite_or_none(value) for value in (found.rho[index], share, p)]
        rows.append([index, *(float(value) for value in centre), radius, int(found.counts[index]), *numbers])
    axes = ["x", "y", "z"][: found.centres.places.shape[1]]
    header = ["concept", *axes, "radius", "tokens", "rho", "roi share", "p"]
    write_csv(folder / "concepts.csv", header, rows, controls=controls)
    console.table(header, rows, title=title_with_controls("", controls))


def _write_rois(folder: Path, found: Findings, *, controls: Sequence[str]) -> None:
    mean, deviation = average_over_roi(found.mean, found.rois), average_over_roi(found.deviation, found.rois)
    tested = found.tested
    rows: list[list[object]] = []
    for (concept, roi), value in np.ndenumerate(mean):
        score = [None, None] if tested is None else [float(tested.z[concept, roi]), float(tested.p_roi[concept, roi])]
        rows.append([concept, found.roi_names[roi], value, deviation[concept, roi], *map(finite_or_none, score)])
    write_csv(folder / "rois.csv", ["concept", "roi", "mean", "deviation", "z", "p"], rows, controls=controls)
    p_roi = None if tested is None else tested.p_roi
    figure = plot_concept_rois(found.roi_names, mean, deviation, p_roi, controls=controls)
    save_figure(figure, folder / "rois.png")
