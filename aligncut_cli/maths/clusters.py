"""From eigenvectors to segments: discretization (Yu and Shi 2003) or k-means, nested levels, matching with masks.

Both methods are fitted on sampled nodes and then label any number of nodes block by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.iou import compute_iou
from aligncut_cli.maths.segmentation import normalize_rows

ClusterMethod = Literal["rotation", "kmeans"]
Floats = NDArray[np.float64]
N_STARTS = 8
MOST_ITERATIONS = 100


@dataclass(frozen=True)
class Discretization:
    """A rule that labels eigenvector rows: the cluster with the highest `unit row @ weights + offsets`.

    weights : (eig, cluster) of the leading eigenvectors, as many as there are clusters
    offsets : (cluster,)
    sizes   : (cluster,) nodes of the sample in each cluster, decreasing
    means   : (cluster, eig) mean unit row of the sample in each cluster
    """

    weights: Floats
    offsets: Floats
    sizes: NDArray[np.int64]
    means: Floats

    def label(self, eigenvectors: NDArray[np.floating]) -> NDArray[np.int16]:
        """Label nodes.

        eigenvectors : (..., eig), at least as many columns as clusters
        returns      : (...) clusters from 0, the largest first
        """
        return _label(_unit_rows(eigenvectors, len(self.offsets)), self.weights, self.offsets).astype(np.int16)


def fit_discretization(
    eigenvectors: NDArray[np.floating], *, n_clusters: int, method: ClusterMethod, seed: int
) -> Discretization:
    """Fit a rule for K clusters to the K leading eigenvectors of sampled nodes.

    Rows are scaled to unit length, which also removes the factor D^{-1/2} between the eigenvectors of Eq. 3 and the
    cluster indicators. 'rotation' finds the rotation that brings the rows nearest to the axes; 'kmeans' the nearest
    mean. Clusters are numbered by decreasing size.

    eigenvectors : (n, eig)
    """
    n_nodes, n_eig = eigenvectors.shape
    if not 2 <= n_clusters <= n_eig:
        raise UsageError(
            f"Cannot make {n_clusters} clusters of {n_eig} eigenvectors.",
            why="K clusters need the K leading eigenvectors, and at least 2.",
            do=f"Use 2 to {n_eig} clusters, or more eigenvectors: aligncut eigs F.zarr -o E.zarr --n-eig {n_clusters}",
        )
    if n_nodes < n_clusters:
        raise BadInput(f"Cannot make {n_clusters} clusters of {n_nodes} nodes.")
    rows = _unit_rows(eigenvectors, n_clusters)
    if method == "rotation":
        weights, offsets = _fit_rotation(rows, seed=seed), np.zeros(n_clusters)
    else:
        weights, offsets = _fit_means(rows, seed=seed)
    label = _label(rows, weights, offsets)
    sizes = np.bincount(label, minlength=n_clusters)
    order = np.argsort(-sizes, kind="stable")
    indicator = label[:, None] == order
    means = indicator.T.astype(np.float64) @ rows / np.maximum(sizes[order], 1)[:, None]
    return Discretization(weights[:, order], offsets[order], sizes[order].astype(np.int64), means)


def _unit_rows(eigenvectors: NDArray[np.floating], n_eig: int) -> Floats:
    return normalize_rows(eigenvectors[..., :n_eig].astype(np.float64))


def _label(rows: Floats, weights: Floats, offsets: Floats) -> NDArray[np.intp]:
    nearest: NDArray[np.intp] = np.argmax(rows @ weights + offsets, axis=-1)
    return nearest


def _fit_rotation(rows: Floats, *, seed: int) -> Floats:
    """Alternate between the nearest indicator matrix and the nearest rotation (Yu and Shi 2003); best of N_STARTS."""
    rng = np.random.default_rng(seed)
    best, best_fit = np.eye(rows.shape[1]), -1.0
    for _ in range(N_STARTS):
        rotation = _start_rotation(rows, int(rng.integers(len(rows))))
        fit = -1.0
        for _ in range(MOST_ITERATIONS):
            label = np.argmax(rows @ rotation, axis=1)
            indicator = label[:, None] == np.arange(rows.shape[1])
            left, singular, right = np.linalg.svd(indicator.T.astype(np.float64) @ rows)
            if singular.sum() <= fit + 1e-12 * abs(fit):
                break
            fit, rotation = float(singular.sum()), (left @ right).T
        if fit > best_fit * (1 + 1e-9):
            best, best_fit = rotation, fit
    return best


def _start_rotation(rows: Floats, first: int) -> Floats:
    """Take rows as axes, each the least aligned with those before."""
    axes = [rows[first]]
    overlap = np.zeros(len(rows))
    for _ in range(rows.shape[1] - 1):
        overlap += np.abs(rows @ axes[-1])
        axes.append(rows[int(np.argmin(overlap))])
    return np.stack(axes, axis=1)


def _fit_means(rows: Floats, *, seed: int) -> tuple[Floats, Floats]:
    """Run k-means; the nearest mean m has the highest x.m - |m|^2 / 2."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # sums over threads come in any order, and the result would with them
        means = KMeans(rows.shape[1], n_init=N_STARTS, random_state=seed).fit(rows).cluster_centers_
    return means.T, -0.5 * (means**2).sum(axis=1)


def nest_clusters(discretization: Discretization, *, levels: Sequence[int]) -> NDArray[np.int16]:
    """Merge clusters step by step, each time the two whose union adds least variance (Ward), and keep some levels.

    levels  : numbers of clusters, each at most that of the discretization
    returns : (level, cluster) number of each fine cluster's group; groups by decreasing size; a level with fewer
              groups is a union of groups of the one with more
    """
    n_fine = len(discretization.sizes)
    if any(not 1 <= level <= n_fine for level in levels):
        raise UsageError(f"Levels {list(levels)} of clusters must lie between 1 and {n_fine}.")
    members = [[cluster] for cluster in range(n_fine)]
    sizes = [float(size) for size in discretization.sizes]
    means = [mean.copy() for mean in discretization.means]
    groups = {n_fine: _number_groups(members, sizes, n_fine)}
    while len(members) > 1:
        pairs = [(a, b) for a in range(len(members)) for b in range(a + 1, len(members))]
        first, second = min(pairs, key=lambda pair: _ward_cost(sizes, means, *pair))
        total = sizes[first] + sizes[second]
        if total:
            means[first] = (sizes[first] * means[first] + sizes[second] * means[second]) / total
        sizes[first] = total
        members[first] += members[second]
        del sizes[second], means[second], members[second]
        groups[len(members)] = _number_groups(members, sizes, n_fine)
    return np.stack([groups[level] for level in levels])


def _ward_cost(sizes: list[float], means: list[Floats], a: int, b: int) -> float:
    total = sizes[a] + sizes[b]
    return sizes[a] * sizes[b] / total * float(((means[a] - means[b]) ** 2).sum()) if total else 0.0


def _number_groups(members: list[list[int]], sizes: list[float], n_fine: int) -> NDArray[np.int16]:
    order = sorted(range(len(members)), key=lambda group: (-sizes[group], min(members[group])))
    numbers = np.empty(n_fine, np.int16)
    for number, group in enumerate(order):
        numbers[members[group]] = number
    return numbers


@dataclass(frozen=True)
class ClusterMatch:
    """Clusters paired with classes.

    cluster : (class,) the cluster matched with each class, -1 = none
    iou     : (class,) NaN for a class without pixels, 0 for one without a cluster
    miou    : mean over the classes with pixels
    """

    cluster: NDArray[np.intp]
    iou: Floats
    miou: float


def match_clusters(overlap: NDArray[np.integer]) -> ClusterMatch:
    """Pair classes with clusters one to one so that the sum of IoUs is highest (Hungarian method).

    Pixels of a cluster without a class are right for none, so more clusters than classes do not raise the score by
    themselves.

    overlap : (class, cluster) pixels of both, summed over images
    """
    in_class, in_cluster = overlap.sum(axis=1), overlap.sum(axis=0)
    iou = np.nan_to_num(compute_iou(overlap, in_cluster[None, :], in_class[:, None]))
    present = np.flatnonzero(in_class > 0)
    rows, columns = linear_sum_assignment(iou[present], maximize=True)
    cluster = np.full(len(overlap), -1, np.intp)
    cluster[present[rows]] = columns
    matched = np.where(in_class > 0, 0.0, np.nan)
    matched[present[rows]] = iou[present[rows], columns]
    return ClusterMatch(cluster, matched, float(matched[present].mean()) if len(present) else float("nan"))
