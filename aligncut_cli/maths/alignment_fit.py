"""Fits the maps and the readout by minimizing Eq. 10, epoch by epoch, so that it can stop and go on anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aligncut_cli.errors import BadInput
from aligncut_cli.maths.alignment_losses import (
    compute_brain_loss,
    compute_covariance_loss,
    compute_eigen_loss,
    compute_zero_loss,
    differentiate_brain_loss,
)
from aligncut_cli.maths.alignment_start import AlignmentStart
from aligncut_cli.maths.centring import CentredMaps
from aligncut_cli.maths.encoding import AlignmentMaps, average_slots
from aligncut_cli.maths.products import product, slot_products
from aligncut_cli.maths.ridge import SlotStatistics, score_voxels
from aligncut_cli.maths.split_images import ImageSplit

Float = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]

# Node sets on which the regularizers are watched after each epoch.
_WATCHED_SETS = 4
# Nodes from which the scale of the channels is measured.
_SCALE_NODES = 1024


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How Eq. 10 is minimized.

    lambda_eigen, lambda_zero, lambda_cov : weights of the regularizers
    n_nodes      : nodes sampled per step for the regularizers
    n_kept       : c, eigenvectors that L_eigen preserves
    batch_images : images per step
    epochs       : at most
    patience     : epochs without a new best state before stopping
    tolerance    : of validation R^2; among states this close to the highest the one with the lowest loss is kept
    select       : `r2` for that rule; `loss` keeps the state with the lowest Eq. 10, whatever its R^2
    """

    lambda_eigen: float
    lambda_zero: float
    lambda_cov: float
    n_nodes: int
    n_kept: int
    batch_images: int
    epochs: int
    patience: int
    tolerance: float
    select: str
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch reached; the loss terms are unweighted.

    brain, eigen, zero, cov : means over the epoch's steps, None for epoch 0, the start
    validation_...          : of the state after the epoch, on validation images
    kept                    : the state was the best so far
    """

    epoch: int
    brain: float | None
    eigen: float | None
    zero: float | None
    cov: float | None
    validation_r2: float
    validation_brain: float
    validation_eigen: float
    validation_zero: float
    validation_cov: float
    validation_loss: float
    kept: bool


@dataclass(frozen=True)
class FitState:
    """A checkpoint: `tensors` by name, and `record` of JSON values."""

    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]


class AlignmentFit:
    """Minimizes L_brain + l_eigen L_eigen + l_zero L_zero + l_cov L_cov (Eq. 10) over W, beta and eps.

    pooled            : per model (layers, images, D_i), means over tokens; float32 on the CPU
    targets           : (images, voxels) responses, z-scored over the training images; float32 on the CPU
    nodes             : per model (layers, n, D_i) tokens of training images, the same ones in every slot
    validation_nodes  : per model (layers, n', D_i) tokens of validation images
    statistics        : per slot, of the training images
    first             : where to start, or the state of an earlier fit with the same arguments, to go on from

    centring          : per model, keeps every slot's mean token at zero at the start and after every step; None
                        leaves that to L_zero. With it, L_eigen compares with tokens about their mean, since what it
                        should keep is what tells tokens apart

    W is optimized in units of each slot's spread, so that one learning rate fits features of any size; the rate falls
    to nothing along half a cosine.
    eps is not searched for: it is what makes the mean training response exact. The L1 distance alone would put
    it at the median, which for skewed responses (spike counts) costs most of R^2.
    """

    def __init__(
        self,
        pooled: Sequence[Float],
        targets: Float,
        nodes: Sequence[npt.NDArray[np.floating[Any]]],
        validation_nodes: Sequence[npt.NDArray[np.floating[Any]]],
        statistics: Sequence[SlotStatistics],
        split: ImageSplit,
        first: AlignmentStart | FitState,
        settings: FitSettings,
        *,
        device: torch.device,
        centring: Sequence[CentredMaps] | None = None,
    ) -> None:
        self._pooled, self._targets, self._nodes, self._validation_nodes = pooled, targets, nodes, validation_nodes
        self._split, self._settings, self._device = split, settings, device
        self._statistics, self._n_slots = statistics, len(statistics)
        self._spreads = _stack_spreads(pooled, statistics, device)
        means = iter(slot.mean for slot in statistics)
        self._means = [
            torch.stack([torch.from_numpy(next(means)) for _ in range(len(features))])[:, None].to(device)
            for features in pooled
        ]
        self._centring = None if centring is None else [part.to(device) for part in centring]
        self._check_nodes()
        self.history: list[EpochRecord] = []
        self._epochs_without_better = 0
        self._best_record: EpochRecord | None = None
        self._best: list[Tensor] = []
        if isinstance(first, AlignmentStart):
            self._begin(first)
        else:
            self._restore(first)

    def _begin(self, start: AlignmentStart) -> None:
        if self._centring is not None:
            weights = [part.project(w.to(self._device)) for part, w in zip(self._centring, start.weights, strict=True)]
            start = replace(start, weights=tuple(weights))
        scale = self._measure_channel_scale(start)
        maps = [weight * spread / scale for weight, spread in zip(start.weights, self._spreads, strict=True)]
        self._set_parameters([*maps, start.readout * scale])
        self._keep_if_better(self._watch(0, dict.fromkeys(_TERMS)))

    def _set_parameters(self, values: Sequence[Tensor]) -> None:
        *self._maps, self._readout = [torch.nn.Parameter(value.to(self._device, copy=True)) for value in values]
        settings = self._settings
        self._optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )

    def _check_nodes(self) -> None:
        for nodes, of_images in ((self._nodes, "training"), (self._validation_nodes, "validation")):
            if min(nodes[0].shape[1], self._settings.n_nodes) <= self._settings.n_kept:
                raise BadInput(
                    f"{nodes[0].shape[1]} tokens of {of_images} images are too few for {self._settings.n_kept} "
                    "eigenvectors.",
                    do="Use more images or tokens, e.g. extract --sample-tokens 20, or fewer eigenvectors.",
                )

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """Maps per model and the readout: what is optimized."""
        return [*self._maps, self._readout]

    @property
    def finished(self) -> bool:
        """No epoch is left, or none of the last `patience` ones was better."""
        return len(self.history) > self._settings.epochs or self._epochs_without_better >= self._settings.patience

    @property
    def best_record(self) -> EpochRecord:
        """Of the epoch whose state is kept."""
        if self._best_record is None:
            raise RuntimeError("no state was kept")
        return self._best_record

    @property
    def lowest_record(self) -> EpochRecord:
        """Of the epoch with the lowest Eq. 10 on the validation images, kept or not."""
        return min(self.history, key=lambda record: record.validation_loss)

    @property
    def best(self) -> AlignmentMaps:
        """The kept state, for features as they are; responses are z-scored (see `restore_units`)."""
        *maps, readout = self._best
        weights = tuple(weight / spread for weight, spread in zip(maps, self._spreads, strict=True))
        if self._centring is not None:  # once more, for what the division rounds
            weights = tuple(part.project(weight) for part, weight in zip(self._centring, weights, strict=True))
        return AlignmentMaps(weights, readout, -(average_slots(self._means, weights) @ readout)[0])

    @torch.no_grad()
    def _measure_channel_scale(self, start: AlignmentStart) -> float:
        """Root mean square of the started channels over all slots' tokens.

        Eq. 10 leaves open how scale is shared between W and beta, but L_zero, L_cov and the optimizer's steps do
        not: channels of mean square 1 fit the paper's weights and one learning rate.
        """
        total = 0.0
        for tokens, weight in zip(self._nodes, start.weights, strict=True):
            for layer in range(len(weight)):
                mapped = self._load(tokens[layer, :_SCALE_NODES].astype(np.float32)) @ weight[layer]
                total += float(mapped.square().mean()) / len(self._statistics)
        return total**0.5 if total > 0 else 1.0

    def run_epoch(self) -> EpochRecord:
        """Go once over the training images; a seed and the epoch's number decide everything random in it."""
        epoch = len(self.history)
        rng = np.random.default_rng([self._settings.seed, 3, epoch])
        order = rng.permutation(self._split.train)
        n_steps = -(-len(order) // self._settings.batch_images)
        sums = dict.fromkeys(_TERMS, 0.0)
        for rows in np.array_split(order, n_steps):
            terms = self._take_step(np.sort(rows), rng)
            for name, value in terms.items():
                sums[name] += value / n_steps
        return self._keep_if_better(self._watch(epoch, sums))

    def _take_step(self, rows: Index, rng: np.random.Generator) -> dict[str, float]:
        settings = self._settings
        self._optimizer.zero_grad()
        n_available = self._nodes[0].shape[1]
        chosen = rng.choice(n_available, size=min(settings.n_nodes, n_available), replace=False)
        images, before = self._load_images(rows), self._load_nodes(self._nodes, np.sort(chosen))
        after: list[Tensor] = []
        sums: list[Tensor] = []
        # Images and nodes go through a slot's map together: one product, and one gradient that nothing is added to.
        for own_images, own_nodes, weight in zip(images, before, self._maps, strict=True):
            mapped = slot_products(torch.cat([own_images, own_nodes], dim=1), weight)
            sums.append(mapped[:, : len(rows)].sum(dim=0))
            after.append(mapped[:, len(rows) :])
        averaged = torch.stack(sums).sum(dim=0) / self._n_slots
        brain, by_averaged, self._readout.grad = differentiate_brain_loss(
            averaged, self._readout, self._load(self._targets[rows])
        )
        eigen, zero, cov = self._regularize(before, after)
        torch.autograd.backward([averaged, self._weigh(eigen, zero, cov)], [by_averaged, None])
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * self._rate()
        self._optimizer.step()
        for part, weight in zip(self._centring or (), self._maps, strict=self._centring is not None):
            part.project_(weight)
        return {"brain": brain.item(), "eigen": eigen.item(), "zero": zero.item(), "cov": cov.item()}

    def _rate(self) -> float:
        """Share of the learning rate in the current epoch: half a cosine over all epochs asked for."""
        passed = (len(self.history) - 1) / max(1, self._settings.epochs)
        return 0.5 * (1 + math.cos(math.pi * passed))

    def _weigh(self, eigen: Tensor, zero: Tensor, cov: Tensor) -> Tensor:
        settings = self._settings
        return settings.lambda_eigen * eigen + settings.lambda_zero * zero + settings.lambda_cov * cov

    def _load_images(self, rows: Index) -> list[Tensor]:
        """Return the images' pooled features about their mean, per model (layers, images, D_i)."""
        return [
            (self._load(features[:, rows]) - mean) / spread
            for features, mean, spread in zip(self._pooled, self._means, self._spreads, strict=True)
        ]

    def _load_nodes(self, nodes: Sequence[npt.NDArray[np.floating[Any]]], chosen: Index) -> list[Tensor]:
        """Return the nodes' features, about their mean where maps are centred, per model (layers, nodes, D_i)."""
        loaded = []
        for tokens, mean, spread in zip(nodes, self._means, self._spreads, strict=True):
            values = self._load(tokens[:, chosen].astype(np.float32, copy=False))
            loaded.append((values if self._centring is None else values - mean) / spread)
        return loaded

    def _regularize(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """L_eigen, L_zero, L_cov of nodes before and after the maps: means over slots, each from its own nodes."""
        eigen, zero, cov = (torch.zeros((), device=self._device) for _ in range(3))
        for own, mapped in zip(before, after, strict=True):
            share = len(own) / self._n_slots
            # Unweighted terms are still shown, but not differentiated.
            shown = mapped if self._settings.lambda_eigen > 0 else mapped.detach()
            eigen = eigen + share * compute_eigen_loss(own, shown, n_kept=self._settings.n_kept)
            zero = zero + share * compute_zero_loss(mapped)
            cov = cov + share * compute_covariance_loss(mapped)
        return eigen, zero, cov

    @torch.no_grad()
    def _watch(self, epoch: int, train_terms: Mapping[str, float | None]) -> EpochRecord:
        """Score the current state on the validation images, on the same node sets after every epoch."""
        rows = self._split.validation
        predicted = product(average_slots(self._load_images(rows), self._maps), self._readout)
        measured = self._load(self._targets[rows])
        brain = float(compute_brain_loss(predicted, measured))
        r2 = float(score_voxels(predicted, measured).mean())
        n_available = self._validation_nodes[0].shape[1]
        rng = np.random.default_rng([self._settings.seed, 4])
        sums = torch.zeros(3, dtype=torch.float64)
        for _ in range(_WATCHED_SETS):
            size = min(self._settings.n_nodes, n_available)
            chosen = np.sort(rng.choice(n_available, size=size, replace=False))
            before = self._load_nodes(self._validation_nodes, chosen)
            after = [slot_products(own, weight) for own, weight in zip(before, self._maps, strict=True)]
            terms = self._regularize(before, after)
            sums += torch.stack([term.cpu().double() for term in terms]) / _WATCHED_SETS
        loss = brain + float(self._weigh(*sums))
        return EpochRecord(
            epoch,
            **train_terms,
            validation_r2=r2,
            validation_brain=brain,
            validation_eigen=float(sums[0]),
            validation_zero=float(sums[1]),
            validation_cov=float(sums[2]),
            validation_loss=loss,
            kept=False,
        )

    def _keep_if_better(self, record: EpochRecord) -> EpochRecord:
        highest = max([record.validation_r2, *(past.validation_r2 for past in self.history)])
        floor = highest - self._settings.tolerance if self._settings.select == "r2" else -math.inf
        kept = self._best_record
        better = record.validation_r2 >= floor and (
            kept is None or kept.validation_r2 < floor or record.validation_loss < kept.validation_loss
        )
        if better:
            record = EpochRecord(**{**vars(record), "kept": True})
            self._best, self._best_record = self._copy_parameters(), record
        self._epochs_without_better = 0 if better else self._epochs_without_better + 1
        self.history.append(record)
        return record

    def _copy_parameters(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    def _load(self, array: npt.NDArray[np.floating[Any]]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def state(self) -> FitState:
        """Everything that an epoch changes; the tensors are not copied."""
        tensors: dict[str, Tensor] = {}
        for number, parameter in enumerate(self.parameters):
            tensors[f"parameter{number}"] = parameter.detach()
            tensors[f"best{number}"] = self._best[number]
            for name, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"{name}{number}"] = value
        record = {
            "history": [vars(item) for item in self.history],
            "best_epoch": self.best_record.epoch,
            "epochs_without_better": self._epochs_without_better,
        }
        return FitState(tensors, record)

    def _restore(self, state: FitState) -> None:
        n_parameters = len(self._pooled) + 1
        self._set_parameters([state.tensors[f"parameter{number}"] for number in range(n_parameters)])
        self._best = [state.tensors[f"best{number}"].to(self._device, copy=True) for number in range(n_parameters)]
        for number, parameter in enumerate(self.parameters):
            if f"step{number}" in state.tensors:
                self._optimizer.state[parameter] = {
                    name: state.tensors[f"{name}{number}"].to(self._device, copy=True)
                    for name in ("step", "exp_avg", "exp_avg_sq")
                }
        self.history = [EpochRecord(**item) for item in state.record["history"]]
        self._best_record = self.history[state.record["best_epoch"]]
        self._epochs_without_better = state.record["epochs_without_better"]


_TERMS = ("brain", "eigen", "zero", "cov")


def _stack_spreads(pooled: Sequence[Float], statistics: Sequence[SlotStatistics], device: torch.device) -> list[Tensor]:
    """Per model (layers, 1, 1)."""
    spreads = iter(slot.spread for slot in statistics)
    return [torch.tensor([[[next(spreads)]] for _ in range(len(features))], device=device) for features in pooled]
