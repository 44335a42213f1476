"""t-SNE of eigenvectors to 2-D or 3-D (PAPER stage 4): neighbours, affinities of one perplexity, gradient descent.

Maaten and Hinton 2008: affinities p_ij of the input, q_ij = w_ij / Z of the map, minimise KL = sum p log(p / q). The
engines share objective, start and schedule; but in 3-D, where the kernel w has two degrees of freedom, scikit-learn's
forces hold w where the derivative of its divergence holds u = 1 / (1 + r^2 / 2), so it stops well above the least
divergence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.maths.lanes import ONE_LANE, Lanes, open_lanes, share_out, sum_in_order
from aligncut_cli.maths.scatter import add_at_
from aligncut_cli.maths.tsne_affinities import Affinities, find_affinities, information_of
from aligncut_cli.maths.tsne_fft import GridRepulsion, Repulsion, degrees_of_freedom, repel_exactly

ENGINES = ("auto", "fft", "exact", "sklearn")

_FEWEST_POINTS = 5
# Up to here the sum over all pairs is as fast as the grid, by measurement on one core, and it is exact.
_EXACT_UP_TO = {2: 700, 3: 1500}
# scikit-learn's exaggeration for a quarter of its 250 iterations, which with the momentum of the second part lead as
# far: the divergence after as many more is the same. Once the exaggeration ends scikit-learn goes on with a twelfth of
# the rate n / exaggeration (Belkina et al. 2019), which we take in both parts: of 20,000 points the divergence after
# 500 iterations is then 7 per cent less.
_EXAGGERATION = 12.0
_EXAGGERATED_ITERATIONS = 60
_MOMENTUM = 0.8
# The descent ends where the divergence has fallen by less than this share since it was looked at last. Many points go
# on spreading out for long after they have found their places: 100,000 take 310 steps and reach 1.531 nats, where 125
# steps more, in half as much time again, would reach 1.479.
_LOOK_EVERY = 25
_LEAST_FALL, _LEAST_FALL_OF_MANY = 5e-3, 1.15e-2
_MANY = 50_000
_PARTS = 16  # in which points share their edges out
# No step is longer: a point pulled too far off would widen the grid.
_LONGEST_STEP = 5.0
_START_SPREAD = 1e-4
# Points of equal input start apart by about this part of the spread: equal places would get equal forces for ever.
_JITTER = 1e-2
# Points in a block, n_neighbors edges each: on a CPU they stay in its cache, on a GPU their coordinates take 1 GiB.
_BLOCK = {"cpu": 1024, "cuda": 1 << 15}


@dataclass(frozen=True)
class TsneFit:
    """A fitted map.

    coords        : (n, d) float32, centred
    kl_divergence : of the map from the affinities, in nats
    engine        : that fitted it, never 'auto'
    iterations    : gradient steps that were taken
    perplexity    : that was used, less than asked for where there are too few points
    n_neighbors   : whose affinities were kept, about three times the perplexity
    """

    coords: NDArray[np.float32]
    kl_divergence: float
    engine: str
    iterations: int
    perplexity: float
    n_neighbors: int


def fit_tsne(
    points: NDArray[np.float32] | NDArray[np.float64],
    *,
    n_dims: int,
    perplexity: float,
    iterations: int,
    engine: str,
    device: torch.device | str,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> TsneFit:
    """Lay points out in two or three dimensions such that near ones stay near; the unit of the input does not matter.

    points     : (n, C)
    n_dims     : 2 or 3
    perplexity : about the number of near neighbours; lowered to (n - 1) / 3 where there are too few points
    iterations : of gradient descent at most; it ends where the divergence hardly falls any more. Up to 60, a quarter of
                 them at most, exaggerate the affinities
    engine     : 'fft' on a grid, O(n); 'exact', O(n^2); 'sklearn', the reference; 'auto' the faster of the first two
    device     : for all but 'sklearn'; on a CPU the same seed gives the same bytes
    seed       : of the jitter that parts equal points
    progress   : called with iterations done and all iterations, which become fewer where the descent ends early
    """
    rows = _standardise(points)
    _check(rows, n_dims=n_dims, perplexity=perplexity, iterations=iterations, engine=engine)
    n_points = len(rows)
    perplexity = min(float(perplexity), (n_points - 1) / 3)
    n_neighbors = min(n_points - 1, int(3 * perplexity + 1))
    start = _principal_start(rows, n_dims=n_dims, seed=seed)
    if engine == "auto":
        engine = "exact" if n_points <= _EXACT_UP_TO[n_dims] else "fft"
    if engine == "sklearn":
        coords, divergence, iterations = _fit_by_sklearn(
            rows, start, perplexity=perplexity, iterations=iterations, seed=seed
        )
    else:
        device = torch.device(device)
        # Neighbours near each other in memory make the gathers of every iteration two to three times faster.
        order = _local_order(rows)
        affinities = find_affinities(torch.from_numpy(rows[order]).to(device), perplexity, n_neighbors=n_neighbors)
        with open_lanes(device) as lanes:
            if engine == "exact":
                repel: Callable[[Tensor], Repulsion] = partial(repel_exactly, lanes=lanes)
            else:
                repel = GridRepulsion(n_dims=n_dims, device=device, lanes=lanes).repel
            fitted, divergence, iterations = _descend(
                torch.from_numpy(start[order].T.copy()).to(device),
                affinities,
                repel,
                lanes,
                iterations=iterations,
                progress=progress,
            )
        coords = np.empty_like(start)
        coords[order] = fitted.T.cpu().numpy()
    if not np.isfinite(coords).all():
        raise BadInput(
            f"t-SNE of {n_points:,} points did not converge: the map is not finite",
            do="look at the eigenvectors with 'aligncut inspect', or try --engine sklearn",
        )
    coords -= coords.mean(axis=0, dtype=np.float64).astype(np.float32)
    return TsneFit(coords, divergence, engine, iterations, perplexity, n_neighbors)


def attract(coords: Tensor, affinities: Affinities, lanes: Lanes = ONE_LANE) -> Tensor:
    """Pull along the edges: sum_j p_ij u_ij (y_i - y_j) with u = 1 / (1 + r^2 / dof), times 2 n.

    coords  : (d, n) float32
    lanes   : that share the points out
    returns : (d, n)
    """
    parts = [partial(_attract_from, coords, affinities, part) for part in share_out(coords.shape[1], _PARTS)]
    return sum_in_order(lanes.run(parts))


def _attract_from(coords: Tensor, affinities: Affinities, points: slice) -> Tensor:
    """Pull along the edges from some points to their neighbours, at both ends: (d, n)."""
    n_dims = len(coords)
    dof = degrees_of_freedom(n_dims)
    block = _BLOCK.get(coords.device.type, 1 << 15)
    force = torch.zeros_like(coords)
    for start in range(points.start, points.stop, block):
        stop = min(start + block, points.stop)
        near = affinities.neighbours[start:stop]
        ends = near.reshape(-1)
        apart = [
            coords[axis, start:stop, None] - torch.index_select(coords[axis], 0, ends).view(near.shape)
            for axis in range(n_dims)
        ]
        base = apart[0].square()
        for along in apart[1:]:
            base.addcmul_(along, along)
        pull = affinities.conditional[start:stop] / base.div_(dof).add_(1.0)
        for axis, along in enumerate(apart):
            along.mul_(pull)
            force[axis, start:stop] += along.sum(1)
            # An edge pulls at both ends alike, which makes p_ij symmetric without storing it twice.
            add_at_(force[axis], ends, along.view(-1), alpha=-1)
    return force


def gradient_of(pull: Tensor, repulsion: Repulsion, *, exaggeration: float = 1.0) -> Tensor:
    """Gradient of the divergence, 2 (dof + 1) / dof sum_j (p_ij - q_ij) u_ij (y_i - y_j).

    pull      : (d, n) float32, by `attract`
    repulsion : of the same map
    returns   : (d, n)
    """
    n_dims, n_points = pull.shape
    dof = degrees_of_freedom(n_dims)
    # grad phi = -(dof + 1) / dof sum_j w_ij u_ij (y_i - y_j). All forces sum to zero; what the grid leaves is taken
    # out.
    push = repulsion.gradient - repulsion.gradient.mean(1, keepdim=True)
    return (pull * (exaggeration * (dof + 1) / dof / n_points)).add_(push, alpha=2 / _normaliser(repulsion))


def divergence_of(
    coords: Tensor,
    affinities: Affinities,
    repulsion: Repulsion,
    information: tuple[float, float],
    lanes: Lanes = ONE_LANE,
) -> float:
    """KL divergence sum p log(p / q) over the edges, in nats.

    coords      : (d, n) float32
    information : of the affinities, by `information_of`
    lanes       : that share the points out
    """
    n_points = coords.shape[1]
    parts = [partial(_log_kernel_from, coords, affinities, part) for part in share_out(n_points, _PARTS)]
    log_kernel = sum(lanes.run(parts)) / n_points
    total, own = information
    return own - log_kernel + total * math.log(_normaliser(repulsion))


def _log_kernel_from(coords: Tensor, affinities: Affinities, points: slice) -> float:
    """Sum of p_j|i log w_ij over the edges from some points."""
    dof = degrees_of_freedom(len(coords))
    block = _BLOCK.get(coords.device.type, 1 << 15)
    total = 0.0
    for start in range(points.start, points.stop, block):
        some = slice(start, min(start + block, points.stop))
        near = affinities.neighbours[some].long()
        square = (coords[:, some, None] - coords[:, near]).double().square().sum(0)
        logs = torch.log1p(square / dof) * (-(dof + 1) / 2)
        total += float((affinities.conditional[some].double() * logs).sum())
    return total


def _normaliser(repulsion: Repulsion) -> float:
    """Z = sum over pairs of different points of w_ij."""
    n_points = len(repulsion.potential)
    return max(float(repulsion.potential.double().sum()) - n_points, 1e-12)


def _descend(
    coords: Tensor,
    affinities: Affinities,
    repel: Callable[[Tensor], Repulsion],
    lanes: Lanes,
    *,
    iterations: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[Tensor, float, int]:
    """Gradient descent with momentum and a gain per coordinate (Jacobs 1988), exaggerating the affinities at first.

    returns : (d, n) map, its divergence, iterations taken
    """
    n_points = coords.shape[1]
    exaggerated = min(_EXAGGERATED_ITERATIONS, iterations // 4)
    information, last = information_of(affinities), math.inf
    least_fall = _LEAST_FALL if n_points < _MANY else _LEAST_FALL_OF_MANY
    update, gains = torch.zeros_like(coords), torch.ones_like(coords)
    for iteration in range(iterations + 1):
        pull, repulsion = attract(coords, affinities, lanes), repel(coords)
        late = iteration - exaggerated
        if iteration == iterations or (late > 0 and late % _LOOK_EVERY == 0):
            divergence = divergence_of(coords, affinities, repulsion, information, lanes)
            if iteration == iterations or 0 <= last - divergence < least_fall * last:
                break
            last = divergence
        if late == 0:
            update.zero_()
            gains.fill_(1.0)
        exaggeration = _EXAGGERATION if late < 0 else 1.0
        # scikit-learn has 50 at least even for a few points, whose map then explodes, and half of the momentum.
        # The rate is for a quarter of the gradient, as its authors counted.
        rate = max(n_points / exaggeration, 0.4 * min(n_points, 200.0)) / 4
        gradient = gradient_of(pull, repulsion, exaggeration=exaggeration)
        gains = torch.where(update * gradient < 0, gains + 0.2, gains * 0.8).clamp_(min=0.01)
        update.mul_(_MOMENTUM).addcmul_(gains, gradient, value=-rate)
        length = update.square().sum(0, keepdim=True).sqrt_()
        update.mul_(_LONGEST_STEP / length.clamp_(min=_LONGEST_STEP))
        coords = coords + update
        if progress is not None:
            progress(iteration + 1, iterations)
    if progress is not None and iteration < iterations:
        progress(iteration, iteration)
    return coords, divergence, iteration


def _fit_by_sklearn(
    rows: NDArray[np.float32], start: NDArray[np.float32], *, perplexity: float, iterations: int, seed: int
) -> tuple[NDArray[np.float32], float, int]:
    from sklearn.manifold import TSNE

    model = TSNE(
        n_components=start.shape[1],
        perplexity=perplexity,
        max_iter=iterations,
        init=start,
        learning_rate="auto",
        random_state=seed,
    )
    coords = np.asarray(model.fit_transform(rows), dtype=np.float32)
    return coords, float(model.kl_divergence_), int(model.n_iter_) + 1


def _standardise(points: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float32]:
    """Centre, and divide by the root mean square, so that float32 suits any unit: (n, C) float32."""
    if points.ndim != 2:
        raise BadInput(f"t-SNE needs a table of points, not an array of shape {points.shape}")
    rows = points.astype(np.float64)
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise BadInput(
            f"{bad:,} of {len(rows):,} points for t-SNE are not finite",
            do="make the eigs store again with 'aligncut eigs'",
        )
    if rows.size:
        rows -= rows.mean(axis=0)
        largest = float(np.abs(rows).max())
        if largest > 0:
            rows /= largest
            rows /= math.sqrt(float(np.mean(rows**2)))
    return rows.astype(np.float32)


def _check(rows: NDArray[np.float32], *, n_dims: int, perplexity: float, iterations: int, engine: str) -> None:
    if engine not in ENGINES:
        raise UsageError(f"there is no t-SNE engine {engine!r}", do=f"choose one of {', '.join(ENGINES)}")
    if n_dims not in (2, 3):
        raise UsageError(f"t-SNE makes maps of 2 or 3 dimensions, not {n_dims}", do="give --dims 2 or --dims 3")
    if not perplexity >= 1:
        raise UsageError(
            f"a perplexity of {perplexity} is too small", do="give --perplexity 30 or another value from 1 on"
        )
    # At 250, where its exaggeration ends, scikit-learn has no divergence yet.
    fewest = 251 if engine == "sklearn" else 1
    if iterations < fewest:
        raise UsageError(f"the {engine} engine of t-SNE needs at least {fewest} iterations, not {iterations}")
    if len(rows) < _FEWEST_POINTS or rows.shape[1] < 1:
        raise BadInput(
            f"t-SNE needs at least {_FEWEST_POINTS} points of 1 coordinate, not {rows.shape[0]} of {rows.shape[1]}",
            do="give more images, or a larger --n-sample",
        )


def _principal_start(rows: NDArray[np.float32], *, n_dims: int, seed: int) -> NDArray[np.float32]:
    """Leading principal components at the start's spread, and jitter: (n, d) float32."""
    wide = rows.astype(np.float64)
    _, axes = np.linalg.eigh(wide.T @ wide)
    axes = axes[:, ::-1][:, :n_dims]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    start = np.zeros((len(rows), n_dims))
    start[:, : axes.shape[1]] = wide @ axes
    spread = start[:, 0].std()
    if spread > 0:
        start *= _START_SPREAD / spread
    start += np.random.default_rng(seed).normal(scale=_START_SPREAD * _JITTER, size=start.shape)
    return start.astype(np.float32)


def _local_order(rows: NDArray[np.float32], *, leaf: int = 64) -> NDArray[np.int64]:
    """Order points such that near ones are mostly near in it: halved at the median of one coordinate after another."""
    n_points = len(rows)
    order = np.arange(n_points)
    for level in range(max(0, math.ceil(math.log2(n_points / leaf)))):
        part = np.arange(n_points) * 2**level // n_points
        order = order[np.lexsort((rows[order, level % rows.shape[1]], part))]
    return order
