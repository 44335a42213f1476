"""Fits an alignment to arrays: ridge, closed-form start, and epochs of Eq. 10 with checkpoints between them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from aligncut_cli.console import Console, Progress
from aligncut_cli.maths.alignment_fit import (
    AlignmentFit,
    EpochRecord,
    FitSettings,
    FitState,
)
from aligncut_cli.maths.alignment_start import (
    MIN_STANDARD_ERRORS,
    AlignmentStart,
    start_at_random,
    start_from_consensus,
    start_from_responses,
    start_from_ridge,
)
from aligncut_cli.maths.centring import CentredMaps
from aligncut_cli.maths.encoding import AlignmentMaps, iterate_slots, predict_from_pooled
from aligncut_cli.maths.response_units import standardize_responses
from aligncut_cli.maths.ridge import (
    RidgeFit,
    SlotStatistics,
    choose_penalty,
    decompose_kernels,
    measure_slot,
    predict_by_ridge,
)
from aligncut_cli.maths.split_images import ImageSplit
from aligncut_cli.params import AlignParams
from aligncut_cli.stages.align.data import Float, Index, NodeSample
from aligncut_cli.store.files import fragment_of
from aligncut_cli.store.kinds.alignment import VOXELS_PER_BLOCK

# At most this share of the time goes into checkpoints.
CHECKPOINT_SHARE = 0.1
# A fit may lose this much to the ridge, in the root of R2 (an r): in maps of the ridge slots do not meet.
FALLBACK_MARGIN = 0.02


class FitData:
    """The arrays that a fit is made to, and what follows from them in closed form; several fits may share them.

    pooled          : per model (layers, images, D_i), means over tokens
    targets         : (images, voxels) responses, z-scored over the training images by `mean` and `deviation` (voxels,)
    nodes           : tokens for the regularizers
    split           : which images fit, stop, and are scored
    warn            : is told where the responses help a fit little
    """

    def __init__(
        self,
        pooled: Sequence[Float],
        responses: Float,
        nodes: NodeSample,
        split: ImageSplit,
        *,
        device: torch.device,
        console: Console,
        warn: Callable[[str], None],
    ) -> None:
        self.pooled, self.nodes, self.split = pooled, nodes, split
        self.device, self.console, self.warn = device, console, warn
        self.mean, self.deviation = standardize_responses(responses, split.train)
        self.targets = responses
        self.statistics = [measure_slot(values, split.train) for _, _, values in iterate_slots(pooled)]

    @property
    def measured(self) -> Float:
        """Return the responses to the test images as they were measured, (images, voxels)."""
        return self.restore(self.targets[self.split.test])

    def restore(self, values: Float) -> Float:
        """Return z-scored responses in the units in which they were measured."""
        restored: Float = values * self.deviation + self.mean
        return restored

    @cached_property
    def ridge(self) -> RidgeFit:
        """Return the better of two ridges on all slots' means: as they are, and with every slot as large as any."""
        return self._fit_ridge(self.pooled, self.statistics)

    def _fit_ridge(self, pooled: Sequence[Float], statistics: Sequence[SlotStatistics]) -> RidgeFit:
        with self.console.progress("ridge", len(statistics), unit="slots") as progress:
            kernels = decompose_kernels(
                pooled,
                statistics,
                self.split.train,
                equalize=(False, True),
                device=self.device,
                progress=progress.reach,
            )
        fits = [choose_penalty(ridge, self.targets, self.split, voxels_per_block=VOXELS_PER_BLOCK) for ridge in kernels]
        return max(fits, key=lambda fit: fit.validation_r2)

    def predict_by_ridge(self, images: Index) -> Float:
        """Return the ridge's prediction of the responses to some images, (n, voxels)."""
        values = predict_by_ridge(self.ridge, self.targets, self.split.train, images, voxels_per_block=VOXELS_PER_BLOCK)
        return self.restore(values)

    def predict(self, maps: AlignmentMaps, images: Index) -> Float:
        """Return the maps' prediction (Eq. 2) of the responses to some images; `maps` is of z-scored responses."""
        pooled = [torch.from_numpy(values[:, images]).to(maps.readout.device) for values in self.pooled]
        return self.restore(predict_from_pooled(pooled, maps).cpu().numpy())

    @cached_property
    def centring(self) -> list[CentredMaps]:
        """Return per model what keeps each slot's mean token, over the training images, at zero."""
        parts = []
        for pooled, tokens in zip(self.pooled, self.nodes.train, strict=True):
            means = torch.from_numpy(pooled[:, self.split.train].mean(axis=1, dtype=np.float64))
            covariances = [torch.from_numpy(np.cov(rows.astype(np.float64), rowvar=False)) for rows in tokens]
            parts.append(CentredMaps.of(list(means), covariances))
        return parts

    def start_inside(self, consensus: Sequence[Tensor], *, turn: bool) -> AlignmentStart:
        """Return the consensus of the slots with a readout of the responses; `turn` puts what predicts them first."""
        return start_from_consensus(
            self.pooled,
            self.statistics,
            consensus,
            self.targets,
            self.split,
            turn=turn,
            voxels_per_block=VOXELS_PER_BLOCK,
        )

    def start(self, kind: str, *, universal_dim: int, seed: int) -> AlignmentStart:
        """Return where a fit begins: `responses`, in closed form, or `random`; says where the responses help little."""
        if kind == "random":
            layers = [len(values) for values in self.pooled]
            n_voxels = self.targets.shape[1]
            return start_at_random(self.statistics, layers, n_voxels=n_voxels, universal_dim=universal_dim, seed=seed)
        ridge = self.ridge
        with self.console.progress("closed-form start", len(self.statistics), unit="slots") as progress:
            start = start_from_responses(
                self.pooled,
                self.statistics,
                ridge,
                self.targets,
                self.split,
                self.nodes.train,
                universal_dim=universal_dim,
                voxels_per_block=VOXELS_PER_BLOCK,
                progress=progress.reach,
            )
        if start.shrunk < 1:
            gain, error = start.gain
            self.warn(
                f"tested was whether the closed-form start has a lower squared error than the mean response on the "
                f"{len(self.split.validation)} validation images: it is lower by {gain:.3f} of that error, standard "
                f"error {error:.3f}, which is less than {MIN_STANDARD_ERRORS:g} of these; so the fit starts at "
                f"{start.shrunk:.2f} of this prediction"
            )
        return start

    def start_from_ridge(self, *, universal_dim: int, centre: bool) -> AlignmentStart:
        """Return maps that predict what a ridge on all slots does; `centre` fits it to what centred maps can see."""
        pooled, statistics = list(self.pooled), self.statistics
        if centre:
            parts = zip(self.centring, self.pooled, strict=True)
            pooled = [part.remove(torch.from_numpy(values)).numpy() for part, values in parts]
            statistics = [measure_slot(values, self.split.train) for _, _, values in iterate_slots(pooled)]
        ridge = self._fit_ridge(pooled, statistics)
        start = start_from_ridge(
            pooled,
            statistics,
            ridge,
            self.targets,
            self.split,
            self.nodes.train,
            token_statistics=self.statistics,
            universal_dim=universal_dim,
            voxels_per_block=VOXELS_PER_BLOCK,
        )
        if not centre:
            return start
        weights = [
            part.to(weight.device).project(weight) for part, weight in zip(self.centring, start.weights, strict=True)
        ]
        return replace(start, weights=tuple(weights))


class Checkpoint:
    """Where the state of one fit is kept between processes; what is there is whole."""

    def __init__(self, path: Path, console: Console) -> None:
        self.path, self.console = path, console
        self._saved, self._cost = time.monotonic(), 0.0

    def save(self, fit: AlignmentFit) -> None:
        """Write the state, unless that was done so recently that it would cost too much of the time."""
        if (time.monotonic() - self._saved) * CHECKPOINT_SHARE < self._cost:
            return
        self._saved = time.monotonic()
        state = fit.state()
        self.path.parent.mkdir(exist_ok=True)
        partial = fragment_of(self.path)
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.tensors.items()}
        save_file(tensors, partial, metadata={"record": json.dumps(state.record)})
        partial.replace(self.path)
        self._cost = time.monotonic() - self._saved

    def load(self) -> FitState | None:
        """Return the state that was written last; None where there is none, or it cannot be read."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                record = json.loads(file.metadata()["record"])
            state = FitState(load_file(self.path), record)
        except (SafetensorError, ValueError, KeyError, OSError) as error:
            self.console.warn(f"the checkpoint {self.path} is not readable ({error}); this fit begins anew")
            return None
        self.console.note(f"going on after epoch {len(record['history']) - 1}")
        return state


def fit_settings(params: AlignParams, seed: int) -> FitSettings:
    """Return how Eq. 10 is minimized by the parameters of `align`; a consensus keeps its start."""
    return FitSettings(
        lambda_eigen=params.lambda_eigen,
        lambda_zero=params.lambda_zero,
        lambda_cov=params.lambda_cov,
        n_nodes=params.nodes,
        n_kept=params.eigenvectors,
        batch_images=params.batch_images,
        epochs=0 if params.target == "consensus" else params.epochs,
        patience=params.patience,
        tolerance=params.tolerance,
        select=params.select,
        learning_rate=params.learning_rate,
        weight_decay=params.weight_decay,
        seed=seed,
    )


def choose_fallback(params: AlignParams, data: FitData) -> Callable[[], AlignmentStart] | None:
    """Return what makes the maps that stand in for a fit that loses to the ridge; None where it is the paper's own."""
    ours = (params.target, params.start, params.select) == ("brain", "responses", "r2")
    return partial(data.start_from_ridge, universal_dim=params.channels, centre=params.centre) if ours else None


def fit_alignment(
    data: FitData,
    settings: FitSettings,
    *,
    start: Callable[[], AlignmentStart],
    centre: bool,
    fallback: Callable[[], AlignmentStart] | None = None,
    checkpoint: Checkpoint | None = None,
) -> AlignmentFit:
    """Minimize Eq. 10 until no epoch is better; returns the finished fit, whose `best` is the maps and the readout.

    A fit that predicts the validation images less well than the ridge on the same features, by more than
    FALLBACK_MARGIN, is replaced with the maps of that ridge, if these do better.

    start      : makes where it begins, unless a checkpoint says so
    centre     : keep every slot's mean token at zero
    fallback   : makes the ridge's maps; None keeps the fit whatever it predicts
    checkpoint : where to go on from, and to keep the state
    """
    console = data.console
    state = None if checkpoint is None else checkpoint.load()

    def begin(at: AlignmentStart | FitState, settings: FitSettings) -> AlignmentFit:
        return AlignmentFit(
            data.pooled,
            data.targets,
            data.nodes.train,
            data.nodes.validation,
            data.statistics,
            data.split,
            at,
            settings,
            device=data.device,
            centring=data.centring if centre else None,
        )

    fit = begin(state or start(), settings)
    label = f"fit seed {settings.seed}"
    with console.progress(label, settings.epochs, unit="epochs", done=len(fit.history) - 1) as progress:
        _show(fit.history[-1], progress, console)
        while not fit.finished:
            record = fit.run_epoch()
            progress.advance()
            _show(record, progress, console)
            if checkpoint is not None:
                checkpoint.save(fit)
    if fallback is None:
        return fit
    reached, wanted = fit.best_record.validation_r2, data.ridge.validation_r2
    if max(wanted, 0.0) ** 0.5 - max(reached, 0.0) ** 0.5 <= FALLBACK_MARGIN:
        return fit
    other = begin(fallback(), replace(settings, epochs=0))
    if other.best_record.validation_r2 <= reached:
        return fit
    data.warn(
        f"on the {len(data.split.validation)} validation images the fit has R2 {reached:.3f} and a ridge on the same "
        f"features {wanted:.3f}; the ridge's maps (R2 {other.best_record.validation_r2:.3f}) are kept in its place"
    )
    return other


def _show(record: EpochRecord, progress: Progress, console: Console) -> None:
    terms = {name: getattr(record, f"validation_{name}") for name in ("brain", "eigen", "zero", "cov")}
    text = f"R2 {record.validation_r2:.4f}, " + ", ".join(f"{k} {v:.3g}" for k, v in terms.items())
    progress.advance(0, text)
    console.detail(f"epoch {record.epoch}: validation {text}{' *' if record.kept else ''}")
