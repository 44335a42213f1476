"""Where the alignment starts: in closed form, every slot predicting the brain's axes and keeping its own spectrum."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aligncut_cli.maths.encoding import average_slots, iterate_slots
from aligncut_cli.maths.products import inner_products, product
from aligncut_cli.maths.response_axes import find_response_axes, fit_slots_to_axes
from aligncut_cli.maths.ridge import (
    PENALTIES,
    RidgeFit,
    SlotStatistics,
    choose_penalty,
    decompose_kernels,
    measure_slot,
)
from aligncut_cli.maths.split_images import ImageSplit

Float = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]

# A start that beats the mean response on the validation images by fewer standard errors than this is shrunk.
MIN_STANDARD_ERRORS = 2.0

# Most of the channels that may be axes of the responses; the others keep what L_eigen wants kept.
_AXES_SHARE = 0.5

# Mean squared length of a mapped token in those other channels, as a share of the whole. L_eigen and Eq. 10 fall with
# it and R^2 does not change, but neither do they mean the same in two slots, so the cosine between slots falls too. On
# the demo's features, shares of .01, .2, .5, .8: L_eigen .77 .63 .46 .26, cosine between models .12 .09 .04 .00.
OWN_SHARE = 0.2

# Tokens from which a slot's leading directions and lengths are measured.
_MEASURED_TOKENS = 4096


@dataclass(frozen=True)
class AlignmentStart:
    """Where the fit starts, for features as they are and z-scored responses.

    weights       : per model (layers, D_i, D')
    readout       : (D', voxels)
    shrunk        : what the readout was multiplied by: 1 unless the validation images were predicted hardly better
                    than by the mean response, then what predicts them best, down to 0
    validation_r2 : share of the axes' variance that the slots' average explains, without and with the joint fit
    n_axes        : channels that the responses determine
    gain          : what was tested: by which share of the mean response's squared error on the validation images that
                    of the prediction is lower, and the standard error of this
    """

    weights: tuple[Tensor, ...]
    readout: Tensor
    shrunk: float
    validation_r2: tuple[float, float]
    n_axes: int
    gain: tuple[float, float] = (0.0, 0.0)


def start_from_responses(
    pooled: Sequence[Float],
    statistics: Sequence[SlotStatistics],
    fit: RidgeFit,
    targets: Float,
    split: ImageSplit,
    nodes: Sequence[npt.NDArray[np.floating[Any]]],
    *,
    universal_dim: int,
    voxels_per_block: int,
    progress: Callable[[int, int], None] | None = None,
) -> AlignmentStart:
    """Closed-form maps for which every slot, and their average (Eq. 2), predicts the responses.

    1. The axes are the principal ones of the responses that a ridge on all slots predicts, at most half the channels.
    2. Every slot alone is fitted to the axes, so that the same token lands on the same place from every slot.
    3. What the slots' average leaves over is fitted jointly, by the ridge on all slots.
    4. The other channels are an orthogonal map of the slot's own leading directions: they keep its spectrum (Eq. 5),
       and the readout does not look at them.

    pooled  : per model (layers, images, D_i)
    fit     : a ridge on the same features, its penalty the one chosen on the validation images
    targets : (images, voxels) with mean 0 over the training images
    nodes   : per model (layers, n, D_i) tokens of training images, the same ones in every slot
    """
    return _start_on_axes(
        pooled,
        statistics,
        fit,
        targets,
        split,
        nodes,
        alone=partial(fit_slots_to_axes, pooled, statistics, split, progress=progress),
        penalties=PENALTIES,
        token_statistics=statistics,
        universal_dim=universal_dim,
        voxels_per_block=voxels_per_block,
    )


def start_from_ridge(
    pooled: Sequence[Float],
    statistics: Sequence[SlotStatistics],
    fit: RidgeFit,
    targets: Float,
    split: ImageSplit,
    nodes: Sequence[npt.NDArray[np.floating[Any]]],
    *,
    token_statistics: Sequence[SlotStatistics],
    universal_dim: int,
    voxels_per_block: int,
) -> AlignmentStart:
    """Maps whose average over slots (Eq. 2) predicts exactly what a ridge on all slots does, along its leading axes.

    No slot predicts the responses alone, so like tokens of two slots need not be near each other: this is what is left
    where fits that ask for more predict less.

    pooled, statistics, fit : the features, of each slot the statistics, and a ridge on just these
    targets, nodes          : as of `start_from_responses`
    token_statistics        : what the tokens in `nodes` are centred by, where `pooled` is not as they are
    """

    def predict_nothing(wanted: Tensor, validation_wanted: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        weights = [wanted.new_zeros(len(own.mean), wanted.shape[1]) for own in statistics]
        return weights, torch.zeros_like(wanted), torch.zeros_like(validation_wanted)

    return _start_on_axes(
        pooled,
        statistics,
        fit,
        targets,
        split,
        nodes,
        alone=predict_nothing,
        penalties=(fit.penalty,),
        token_statistics=token_statistics,
        universal_dim=universal_dim,
        voxels_per_block=voxels_per_block,
    )


def _start_on_axes(
    pooled: Sequence[Float],
    statistics: Sequence[SlotStatistics],
    fit: RidgeFit,
    targets: Float,
    split: ImageSplit,
    nodes: Sequence[npt.NDArray[np.floating[Any]]],
    *,
    alone: Callable[[Tensor, Tensor], tuple[list[Tensor], Tensor, Tensor]],
    penalties: Sequence[float],
    token_statistics: Sequence[SlotStatistics],
    universal_dim: int,
    voxels_per_block: int,
) -> AlignmentStart:
    """Find the axes of the responses, let slots predict them alone, and fit jointly what that leaves over.

    alone     : given the training and validation images along the axes, what `fit_slots_to_axes` returns
    penalties : for the joint fit, of which the validation images choose
    """
    ridge = fit.ridge
    most = max(1, int(universal_dim * _AXES_SHARE))
    axes = find_response_axes(ridge, fit.penalty, targets, split.train, n_axes=most, voxels_per_block=voxels_per_block)
    if len(axes) == 0:
        none = [torch.zeros(own.mean.shape[0], 0) for own in statistics]
        return _assemble(none, axes, 0.0, (0.0, 0.0), token_statistics, nodes, universal_dim=universal_dim)
    wanted, validation_wanted = (
        inner_products(torch.from_numpy(targets[rows]).to(axes), axes) for rows in (split.train, split.validation)
    )
    weights, average, validation_average = alone(wanted, validation_wanted)
    rotated = product(ridge.eigenvectors.T, wanted - average)
    basis = ridge.open_basis(split.validation)
    candidates = [validation_average + (basis * ridge.shrink(penalty)) @ rotated for penalty in penalties]
    null, separate, *errors = [
        float((validation_wanted - predicted).square().sum())
        for predicted in (torch.zeros_like(validation_wanted), validation_average, *candidates)
    ]
    best = int(np.argmin(errors))
    dual = ridge.eigenvectors @ (ridge.shrink(penalties[best])[:, None] * rotated)
    for number, (_, _, features) in enumerate(iterate_slots(pooled)):
        own, factor = statistics[number], float(ridge.factors[number])
        x = torch.from_numpy(features[split.train] - own.mean).to(axes)
        weights[number] += factor**2 * product(x.T, dual)
    gain = _measure_gain(candidates[best], validation_wanted)
    shrunk = _choose_shrinkage(candidates[best], validation_wanted, gain)
    r2 = (1 - separate / null, 1 - errors[best] / null) if null > 0 else (0.0, 0.0)
    start = _assemble(weights, axes, shrunk, r2, token_statistics, nodes, universal_dim=universal_dim)
    return replace(start, gain=gain)


def _measure_gain(predicted: Tensor, wanted: Tensor) -> tuple[float, float]:
    """Return by which share of the error of predicting nothing a prediction's is lower, and its standard error.

    predicted, wanted : (images, axes)
    """
    gain = wanted.square().sum(dim=1) - (wanted - predicted).square().sum(dim=1)
    null = float(wanted.square().sum(dim=1).mean())
    if null == 0:
        return 0.0, 0.0
    error = float(gain.std()) / len(gain) ** 0.5 if len(gain) > 1 else float("inf")
    return float(gain.mean()) / null, error / null


def _choose_shrinkage(predicted: Tensor, wanted: Tensor, gain: tuple[float, float]) -> float:
    """Return 1 where a prediction is surely better than none, else the factor in [0, 1] with the least error.

    predicted, wanted : (images, axes)
    gain              : of `_measure_gain`
    """
    if gain[0] > MIN_STANDARD_ERRORS * gain[1]:
        return 1.0
    size = float(predicted.square().sum())
    return min(1.0, max(0.0, float((predicted * wanted).sum()) / size)) if size > 0 else 0.0


def _assemble(
    slot_weights: Sequence[Tensor],
    axes: Tensor,
    shrunk: float,
    validation_r2: tuple[float, float],
    statistics: Sequence[SlotStatistics],
    nodes: Sequence[npt.NDArray[np.floating[Any]]],
    *,
    universal_dim: int,
) -> AlignmentStart:
    """Put the channels of the axes and those of the slots' own directions side by side."""
    device, n_axes = axes.device, len(axes)
    tokens: list[Tensor] = []
    for number, values in enumerate(_iterate_nodes(nodes)):
        tokens.append(torch.from_numpy(values.astype(np.float32) - statistics[number].mean))
    weights: list[Tensor] = []
    number = 0
    for part in nodes:
        stack = torch.empty(len(part), part.shape[2], universal_dim, device=device)
        for layer in range(len(part)):
            found, rows = slot_weights[number].cpu().float(), tokens[number]
            own = find_leading_directions(rows, n_channels=universal_dim - n_axes)
            read, kept = (float((rows @ channels).square().sum(dim=1).mean()) for channels in (found, own))
            share = OWN_SHARE / (1 - OWN_SHARE)
            scale = (share * read / kept) ** 0.5 if read > 0 and kept > 0 else 1 / statistics[number].spread
            stack[layer] = torch.cat([found, own * scale], dim=1).to(device)
            number += 1
        weights.append(stack)
    readout = torch.zeros(universal_dim, axes.shape[1], device=device)
    readout[:n_axes] = (axes * shrunk).float()
    return AlignmentStart(tuple(weights), readout, shrunk, validation_r2, n_axes)


def find_leading_directions(tokens: Tensor, *, n_channels: int) -> Tensor:
    """Return an orthogonal map onto a slot's principal axes, the largest first: it changes no distance within them.

    tokens  : (n, D) centred
    returns : (D, k) orthonormal columns; zeros beyond the D-th
    """
    vectors = torch.linalg.eigh((tokens.T @ tokens).double()).eigenvectors.flip(1)[:, :n_channels]
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    signed = (vectors * torch.where(largest < 0, -1.0, 1.0)).float()
    return torch.nn.functional.pad(signed, (0, n_channels - signed.shape[1]))


def _iterate_nodes(nodes: Sequence[npt.NDArray[np.floating[Any]]]) -> Iterator[npt.NDArray[np.floating[Any]]]:
    for part in nodes:
        for rows in part:
            yield rows[:: -(-len(rows) // _MEASURED_TOKENS)]


def start_from_consensus(
    pooled: Sequence[Float],
    statistics: Sequence[SlotStatistics],
    weights: Sequence[Tensor],
    targets: Float,
    split: ImageSplit,
    *,
    turn: bool,
    voxels_per_block: int,
) -> AlignmentStart:
    """Read the responses out of the slots' consensus: a ridge from its channels, averaged over slots (Eq. 2).

    weights : per model (layers, D_i, D') maps to the consensus
    targets : (images, voxels) with mean 0 over the training images
    turn    : rotate and weigh the channels, the same for all slots, so that the first are the principal axes of the
              predicted responses (reduced-rank regression) and those that predict are up to twice as long; what the
              readout predicts stays
    """
    means = iter(own.mean for own in statistics)
    centred = [
        torch.from_numpy(values - np.stack([next(means) for _ in range(len(values))])[:, None]) for values in pooled
    ]
    channels = average_slots(centred, [weight.to(centred[0]) for weight in weights])[None].numpy()
    own = measure_slot(channels[0], split.train)
    kernel = decompose_kernels([channels], [own], split.train, equalize=[True], device=torch.device("cpu"))[0]
    fit = choose_penalty(kernel, targets, split, voxels_per_block=voxels_per_block)
    x = torch.from_numpy(channels[0][split.train] - own.mean).double() / own.spread
    dual = kernel.eigenvectors.double() * kernel.shrink(fit.penalty).double()
    readout = torch.empty(channels.shape[2], targets.shape[1])
    for first in range(0, targets.shape[1], voxels_per_block):
        part = slice(first, first + voxels_per_block)
        wanted = torch.from_numpy(targets[split.train, part]).double()
        readout[:, part] = (x.T @ (dual @ (kernel.eigenvectors.double().T @ wanted)) / own.spread).float()
    shrunk = 1.0 if np.isfinite(fit.penalty) else 0.0
    if not turn:
        return AlignmentStart(tuple(weights), readout, shrunk, (0.0, fit.validation_r2), channels.shape[2])
    values, vectors = torch.linalg.eigh((readout @ readout.T).double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1).float()
    length = (1 + values / values.max()).sqrt().float() if float(values.max()) > 0 else torch.ones(len(values))
    turned = tuple((weight.cpu() @ vectors) * length for weight in weights)
    return AlignmentStart(
        turned, (vectors.T @ readout) / length[:, None], shrunk, (0.0, fit.validation_r2), channels.shape[2]
    )


def start_at_random(
    statistics: Sequence[SlotStatistics], layers: Sequence[int], *, n_voxels: int, universal_dim: int, seed: int
) -> AlignmentStart:
    """Random maps and readout, as a network is initialized: where the paper's own fit starts.

    layers : of each model, as many as it has slots
    """
    generator = torch.Generator().manual_seed(seed)
    weights: list[Tensor] = []
    number = 0
    for count in layers:
        stack = []
        for own in statistics[number : number + count]:
            weight = torch.randn(len(own.mean), universal_dim, generator=generator)
            stack.append(weight / (own.spread * universal_dim**0.5))
        weights.append(torch.stack(stack))
        number += count
    readout = torch.randn(universal_dim, n_voxels, generator=generator) * (_READOUT_SIZE / universal_dim**0.5)
    return AlignmentStart(tuple(weights), readout, 0.0, (0.0, 0.0), 0)


# Of a random readout's column: small, so that predictions begin near the mean response.
_READOUT_SIZE = 0.1
