"""Concepts (Fig. 8): centres and balls in t-SNE space, their members, and the members' activations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.sampling import farthest_point_sample

Floats = NDArray[np.float64]
RADIUS_RULE = "half the median distance from a centre to its nearest other centre"


def choose_centres(coords: NDArray[np.floating], *, n_concepts: int) -> NDArray[np.int64]:
    """Choose centres by farthest point sampling, beginning with the point nearest to the mean.

    coords  : (n, dim) t-SNE coordinates
    returns : (n_concepts,) positions in coords
    """
    if not 1 <= n_concepts <= len(coords):
        raise UsageError(f"Cannot choose {n_concepts} concepts among {len(coords)} tokens.", do="Lower --concepts.")
    points = coords.astype(np.float64)
    start = int(((points - points.mean(axis=0)) ** 2).sum(axis=1).argmin())
    chosen = farthest_point_sample(torch.from_numpy(points), n_concepts, start=start)
    return chosen.numpy()


def choose_radius(centres: NDArray[np.floating]) -> float:
    """Choose one radius for all balls: RADIUS_RULE, so that most neighbouring balls just touch.

    centres : (concept, dim)
    """
    if len(centres) < 2:
        raise UsageError("The radius of a single concept cannot be chosen.", do="Give --radius, or more --concepts.")
    distance = np.sqrt(measure_squared_distances(centres, centres))
    np.fill_diagonal(distance, np.inf)
    radius = 0.5 * float(np.median(distance.min(axis=1)))
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

    distance : (concept, rank) squared distance, infinite where there are fewer images
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
    p          : of the score
    by_concept : (concept,) that share for each concept, NaN for a concept without members
    p_concept  : (concept,) not corrected for the number of concepts
    null       : (permutation,) scores under permuted voxels
    z          : (concept, roi) how far the ROI's mean lies from all voxels' mean, in deviations under permutation;
                 NaN for an ROI without voxels
    p_roi      : (concept, roi) two-sided, corrected for all concepts and ROIs (highest |z|)
    """

    score: float
    p: float
    by_concept: Floats
    p_concept: Floats
    null: Floats
    z: Floats
    p_roi: Floats


def score_roi_correspondence(
    activations: Floats, rois: NDArray[np.bool_], *, n_permutations: int, seed: int
) -> RoiCorrespondence:
    """Test whether concepts activate whole ROIs alike, against permuted voxels.

    Score: R^2 of a regression of the concept's mean activations on ROI membership, over the voxels that belong to at
    least one ROI. For ROIs that do not overlap this is the between-group share of variance, eta^2.
    Null hypothesis: which voxel belongs to which ROI has nothing to do with the concepts' activations, so voxels can
    be exchanged between ROIs. The same exchange is applied to all concepts, which keeps their relations to each
    other. p = (1 + permutations with at least the score) / (1 + permutations).
    Neighbouring voxels are correlated and so not quite exchangeable: the p-value is optimistic where a response is
    smooth over the cortex, and is no test against other parcellations that are as smooth as the ROIs.

    activations : (concept, voxel) mean activations in the brain's space
    rois        : (roi, voxel); may overlap
    """
    inside, filled = rois.any(axis=0), rois.any(axis=1)
    groups = rois[filled][:, inside].astype(np.float64)
    n_voxels = int(inside.sum())
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
    size = groups.sum(axis=1)
    # Deviation of a mean of `size` voxels drawn without replacement from these values, which have variance 1/n_voxels.
    spread = np.sqrt((n_voxels - size) / (size * max(n_voxels - 1, 1) * n_voxels))
    averaging = np.where(spread > 0, groups.T / (size * np.where(spread > 0, spread, 1.0)), 0.0)

    def measure(order: NDArray[np.intp] | slice) -> tuple[Floats, Floats]:
        permuted = units[:, order]
        return ((permuted @ basis) ** 2).sum(axis=1), permuted @ averaging

    share, z = measure(slice(None))
    rng = np.random.default_rng(seed)
    null_share = np.empty((n_permutations, len(units)))
    null_highest = np.empty(n_permutations)
    for i in range(n_permutations):
        null_share[i], null_z = measure(rng.permutation(n_voxels))
        null_highest[i] = np.abs(null_z).max(initial=0)
    null = null_share.mean(axis=1) if len(units) else np.full(n_permutations, np.nan)
    score = float(share.mean()) if len(units) else float("nan")
    by_concept, p_concept = np.full(len(activations), np.nan), np.full(len(activations), np.nan)
    by_concept[known], p_concept[known] = share, count_as_extreme(null_share, share)
    every_z = np.full((len(activations), len(rois)), np.nan)
    p_roi = np.full_like(every_z, np.nan)
    at = np.ix_(known, filled)
    every_z[at], p_roi[at] = z, count_as_extreme(null_highest[:, None, None], np.abs(z))
    p = float(count_as_extreme(null, np.float64(score))) if len(units) else float("nan")
    return RoiCorrespondence(score, p, by_concept, p_concept, null, every_z, p_roi)


def count_as_extreme(null: Floats, observed: Floats | np.float64) -> Floats:
    """p-value of a permutation test: (1 + permutations at least as high) / (1 + permutations).

    null     : (permutation, ...)
    observed : (...)
    """
    slack = 1e-12 * (1 + np.abs(observed))  # the identity among the permutations must count as equal
    p: Floats = (1 + (null >= observed - slack).sum(axis=0)) / (1 + len(null))
    return p
