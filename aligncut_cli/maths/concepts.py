"""Concepts (Fig. 8): centres and balls in t-SNE space, their members, and the members' activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.permutations import correct_for_highest, count_as_extreme
from aligncut_cli.maths.sampling import farthest_point_sample

Floats = NDArray[np.float64]
NEAR_SHARE = 0.01
"""How dense a place is, is measured by the radius within which this share of the sampled patches lies."""
CENTRE_RULE = (
    f"farthest points among the places around which {NEAR_SHARE:.0%} of the sampled patches lie closest together; "
    "the sparsest share of the patches (--sparse) is no candidate"
)
RADIUS_RULE = (
    "half the median distance from a centre to its nearest other centre, and at least so much that every ball holds "
    f"{NEAR_SHARE:.0%} of the sampled patches"
)


class TooFewPlaces(UsageError):
    """There are more concepts to be chosen than places where patches lie."""


def choose_centres(coords: NDArray[np.floating], *, n_concepts: int, sparse: float) -> tuple[Floats, Floats]:
    """Choose centres by CENTRE_RULE, beginning with the candidate nearest to the mean of all.

    Farthest points alone are outliers: the point farthest from all others is where hardly any token is.

    coords  : (n, dim) t-SNE coordinates of sampled patches; several may lie at one place
    sparse  : share of the patches that cannot become centres, those in the sparsest places; fewer are left out where
              that would leave fewer than n_concepts places
    returns : (n_concepts, dim) places, and (n_concepts,) the radius around each that holds NEAR_SHARE of the patches
    raises  : TooFewPlaces
    """
    points, copies = np.unique(coords.astype(np.float64), axis=0, return_counts=True)
    if not 1 <= n_concepts <= len(points):
        raise TooFewPlaces(
            f"Cannot choose {n_concepts} concepts among {len(coords)} patches at {len(points)} places.",
            do="Lower --concepts.",
        )
    n_near = math.ceil(NEAR_SHARE * len(coords))
    reach: Floats = cKDTree(coords.astype(np.float64)).query(points, k=[n_near])[0][:, 0]
    by_density = np.argsort(reach, kind="stable")
    n_patches = np.cumsum(copies[by_density])
    n_candidates = max(int(np.searchsorted(n_patches, (1 - sparse) * len(coords))) + 1, n_concepts)
    candidates = np.sort(by_density[:n_candidates])
    dense = points[candidates]
    start = int(((dense - coords.astype(np.float64).mean(axis=0)) ** 2).sum(axis=1).argmin())
    chosen = farthest_point_sample(torch.from_numpy(dense), n_concepts, start=start).numpy()
    return dense[chosen], reach[candidates[chosen]]


def choose_radius(centres: NDArray[np.floating], reach: NDArray[np.floating]) -> float:
    """Choose one radius for all balls by RADIUS_RULE: most neighbouring balls just touch, and none is nearly empty.

    centres : (concept, dim)
    reach   : (concept,) as `choose_centres` returns it
    """
    if len(centres) < 2:
        raise UsageError("The radius of a single concept cannot be chosen.", do="Give --radius, or more --concepts.")
    distance = np.sqrt(measure_squared_distances(centres, centres))
    np.fill_diagonal(distance, np.inf)
    radius = max(0.5 * float(np.median(distance.min(axis=1))), float(reach.max()))
    if not radius > 0:
        raise BadInput("The concepts' centres coincide, so no radius can be chosen.", do="Ask for fewer --concepts.")
    return radius


def measure_squared_distances(coords: NDArray[np.floating], centres: NDArray[np.floating]) -> Floats:
    """Squared Euclidean distances.

    coords  : (..., dim)
    centres : (concept, dim)
    returns : (..., concept)
    """
    difference = coords.astype(np.float64)[..., None, :] - centres.astype(np.float64)
    squared: Floats = np.einsum("...d,...d->...", difference, difference)
    return squared


def find_members(coords: NDArray[np.floating], centres: NDArray[np.floating], *, radius: float) -> NDArray[np.bool_]:
    """Tell which tokens lie inside which ball; a token may lie in none, or in several that overlap.

    coords  : (..., dim)
    centres : (concept, dim)
    returns : (..., concept)
    """
    return measure_squared_distances(coords, centres) <= radius**2


class ConceptMoments:
    """Count, mean and covariance of the members' features, block by block (Chan, Golub and LeVeque 1979).

    The readout is linear, so these give mean and deviation for any number of voxels at the end: the size depends
    neither on the number of images nor on the number of voxels.

    counts     : (concept,)
    means      : (concept, channel)
    scatter    : (concept, channel, channel) sums of products of deviations from the mean
    """

    def __init__(self, n_concepts: int, n_channels: int) -> None:
        self.counts = np.zeros(n_concepts, np.int64)
        self.means = np.zeros((n_concepts, n_channels))
        self.scatter = np.zeros((n_concepts, n_channels, n_channels))

    def add(self, features: NDArray[np.floating], members: NDArray[np.bool_]) -> None:
        """Add a block of tokens.

        features : (n, channel) in the universal space
        members  : (n, concept)
        """
        for concept in np.flatnonzero(members.any(axis=0)):
            block = features[members[:, concept]].astype(np.float64)
            mean = block.mean(axis=0)
            deviation = block - mean
            self._combine(int(concept), len(block), mean, deviation.T @ deviation)

    def merge(self, other: ConceptMoments) -> None:
        """Add the moments of other tokens of the same concepts."""
        for concept in np.flatnonzero(other.counts):
            self._combine(int(concept), int(other.counts[concept]), other.means[concept], other.scatter[concept])

    def _combine(self, concept: int, count: int, mean: Floats, scatter: Floats) -> None:
        before = self.counts[concept]
        total = before + count
        shift = mean - self.means[concept]
        self.scatter[concept] += scatter + np.outer(shift, shift) * (before * count / total)
        self.means[concept] += shift * (count / total)
        self.counts[concept] = total

    def activate(self, readout: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the channel activations B = V' beta over each concept's members.

        readout : (channel, voxel) beta
        returns : two of (concept, voxel); NaN for a concept without members
        """
        beta = readout.astype(np.float64)
        empty = (self.counts == 0)[:, None]
        mean = self.means @ beta
        squares = np.stack([np.einsum("cv,cv->v", beta, scatter @ beta) for scatter in self.scatter])
        deviation = np.sqrt(np.maximum(squares, 0) / np.maximum(self.counts, 1)[:, None])
        return np.where(empty, np.nan, mean), np.where(empty, np.nan, deviation)


def relate_magnitude_to_deviation(mean: Floats, deviation: Floats) -> Floats:
    """Rank correlation over voxels between |mean| and standard deviation; the paper finds it negative (Fig. 8).

    mean, deviation : (concept, voxel)
    returns         : (concept,) Spearman's rho, NaN for a concept without members or without variation
    """
    rho = np.full(len(mean), np.nan)
    for concept, (magnitude, spread) in enumerate(zip(np.abs(mean), deviation, strict=True)):
        if np.isnan(magnitude).any() or np.ptp(magnitude) == 0 or np.ptp(spread) == 0:
            continue
        rho[concept] = np.corrcoef(rankdata(magnitude), rankdata(spread))[0, 1]
    return rho


class NearestTokens:
    """The images whose tokens come nearest to each concept's centre, at most one token per image.

    distance : (concept, rank) squared distance or any other number that ranks tokens, infinite where there are fewer
               images
    image    : (concept, rank) position of the image
    token    : (concept, rank) token within the image, class token not counted
    """

    def __init__(self, n_concepts: int, n_nearest: int) -> None:
        self.distance = np.full((n_concepts, n_nearest), np.inf)
        self.image = np.full((n_concepts, n_nearest), -1, np.int64)
        self.token = np.full((n_concepts, n_nearest), -1, np.int64)

    def add(self, squared_distance: Floats, *, first_image: int) -> None:
        """Add a block of images, in order of position.

        squared_distance : (image, token, concept)
        first_image      : position of the block's first image
        """
        token = squared_distance.argmin(axis=1).T  # (concept, image)
        distance = squared_distance.min(axis=1).T
        image = np.broadcast_to(first_image + np.arange(len(squared_distance)), distance.shape)
        self.merge(distance, image, token)

    def merge(self, distance: Floats, image: NDArray[np.int64], token: NDArray[np.int64]) -> None:
        """Add tokens of other images, (concept, n) each, those of images further on in the order."""
        n_nearest = self.distance.shape[1]
        every = np.concatenate([self.distance, distance], axis=1)
        order = np.argsort(every, axis=1, kind="stable")[:, :n_nearest]  # of equals, the image that came first
        self.image = np.take_along_axis(np.concatenate([self.image, image], axis=1), order, axis=1)
        self.token = np.take_along_axis(np.concatenate([self.token, token], axis=1), order, axis=1)
        self.distance = np.take_along_axis(every, order, axis=1)


@dataclass(frozen=True)
class RoiCorrespondence:
    """How well the ROIs' borders explain the concepts' activations.

    score      : mean over concepts of the share of variance over voxels that ROI membership explains
    by_concept : (concept,) that share for each concept, NaN for a concept without members
    contrast   : (concept, roi) how far the ROI's mean lies from all voxels' mean, in standard deviations over voxels;
                 NaN for an ROI without voxels
    """

    score: float
    by_concept: Floats
    contrast: Floats


def score_roi_correspondence(activations: Floats, rois: NDArray[np.bool_]) -> RoiCorrespondence:
    """Score whether concepts activate whole ROIs alike.

    Score: R^2 of a regression of the concept's mean activations on ROI membership, over the voxels that belong to at
    least one ROI. For ROIs that do not overlap this is the between-group share of variance, eta^2.
    A high score says nothing yet: the voxels of an ROI respond alike, so that whatever is read out to them differs by
    ROI, a fit to shuffled responses too. See `compare_with_controls`.

    activations : (concept, voxel) mean activations in the brain's space
    rois        : (roi, voxel); may overlap
    """
    inside, filled = rois.any(axis=0), rois.any(axis=1)
    groups = rois[filled][:, inside].astype(np.float64)
    basis, singular, _ = np.linalg.svd((groups - groups.mean(axis=1, keepdims=True)).T, full_matrices=False)
    basis = basis[:, singular > 1e-9 * max(1.0, float(singular.max(initial=0)))]
    if len(groups) < 2 or basis.shape[1] == 0:
        raise BadInput(
            "A correspondence of concepts and ROIs needs at least two ROIs with different voxels.",
            do="Use an alignment that was learned with ROI masks beside the responses.",
        )
    known = ~np.isnan(activations).any(axis=1)
    centred = activations[known][:, inside]
    centred = centred - centred.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    units = centred / np.where(length > 0, length, 1.0)  # (concept, voxel), mean 0, length 1
    by_concept = np.full(len(activations), np.nan)
    by_concept[known] = ((units @ basis) ** 2).sum(axis=1)
    contrast = np.full((len(activations), len(rois)), np.nan)
    means = units @ (groups / groups.sum(axis=1, keepdims=True)).T
    contrast[np.ix_(known, filled)] = means * math.sqrt(inside.sum())
    score = float(by_concept[known].mean()) if known.any() else float("nan")
    return RoiCorrespondence(score, by_concept, contrast)


@dataclass(frozen=True)
class ControlComparison:
    """A correspondence of concepts and ROIs beside those of controls.

    null      : (control,) scores of the controls
    p         : of the score
    p_concept : (concept,) of each concept's share, corrected for the highest of all concepts
    z         : (concept, roi) contrast, in deviations of the controls' contrasts from their mean; NaN from one control
    p_roi     : (concept, roi) two-sided, corrected for the farthest of all concepts and ROIs
    """

    null: Floats
    p: float
    p_concept: Floats
    z: Floats
    p_roi: Floats


def compare_with_controls(found: RoiCorrespondence, controls: Sequence[RoiCorrespondence]) -> ControlComparison:
    """Compare a correspondence with those of fits that cannot know the images, read out for the same tokens.

    Null hypothesis: the responses could have belonged to any other images, so that the fit is one more control. With
    n controls no p is below 1 / (n + 1). The concepts lie on the map of the fit in question, which the controls did
    not choose: what is tested is its maps and readout, on its own concepts.
    """
    null = np.array([control.score for control in controls])
    shares = np.stack([control.by_concept for control in controls])
    contrasts = np.stack([control.contrast for control in controls])
    every = np.concatenate([found.contrast[None], contrasts])
    far = np.abs(every - every.mean(axis=0)).reshape(len(every), -1)
    spread = contrasts.std(axis=0, ddof=1) if len(controls) > 1 else np.zeros_like(found.contrast)
    z = np.where(spread > 0, (found.contrast - contrasts.mean(axis=0)) / np.where(spread > 0, spread, 1), np.nan)
    return ControlComparison(
        null=null,
        p=float(count_as_extreme(null, np.float64(found.score))),
        p_concept=correct_for_highest(shares, found.by_concept),
        z=z,
        p_roi=correct_for_highest(far[1:], far[0]).reshape(found.contrast.shape),
    )
