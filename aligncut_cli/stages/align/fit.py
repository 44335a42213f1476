"""Fits an alignment to arrays: ridge, closed-form start, and epochs of Eq. 10 with checkpoints between them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from aligncut_cli.console import Console, Progress
from aligncut_cli.maths.alignment_fit import AlignmentFit, EpochRecord, FitSettings, FitState
from aligncut_cli.maths.alignment_start import AlignmentStart, start_from_responses
from aligncut_cli.maths.encoding import iterate_slots
from aligncut_cli.maths.ridge import RidgeFit, choose_penalty, decompose_kernel, measure_slot, predict_by_ridge
from aligncut_cli.maths.split_images import ImageSplit
from aligncut_cli.stages.align.data import Float, Index, NodeSample
from aligncut_cli.store.kinds.alignment import VOXELS_PER_BLOCK

# At most this share of the time goes into checkpoints.
CHECKPOINT_SHARE = 0.1


class Baseline:
    """What every fit to the same arrays shares: statistics of the slots, and a ridge, from which the fits start.

    pooled  : per model (layers, images, D_i)
    targets : (images, voxels), z-scored over the training images
    """

    def __init__(
        self, pooled: Sequence[Float], targets: Float, split: ImageSplit, *, device: torch.device, console: Console
    ) -> None:
        self.pooled, self.targets, self.split = pooled, targets, split
        self.device, self.console = device, console
        self.statistics = [measure_slot(values, split.train) for _, _, values in iterate_slots(pooled)]

    @cached_property
    def ridge(self) -> RidgeFit:
        """Return the better of two ridges on all slots' means: as they are, and with every slot as large as any."""
        n_slots = len(self.statistics)
        with self.console.progress("ridge", 2 * n_slots, unit="slots") as progress:

            def fit(equalize: bool) -> RidgeFit:
                kernel = decompose_kernel(
                    self.pooled,
                    self.statistics,
                    self.split.train,
                    equalize=equalize,
                    device=self.device,
                    progress=lambda done, total: progress.reach(equalize * n_slots + done, 2 * total),
                )
                return choose_penalty(kernel, self.targets, self.split, voxels_per_block=VOXELS_PER_BLOCK)

            fits = [fit(False), fit(True)]
        return max(fits, key=lambda fit: fit.validation_r2)

    def predict(self, images: Index) -> Float:
        """Return the ridge's prediction of the targets of some images, (n, voxels)."""
        return predict_by_ridge(self.ridge, self.targets, self.split.train, images, voxels_per_block=VOXELS_PER_BLOCK)

    def start(self, *, universal_dim: int, seed: int) -> AlignmentStart:
        """Return where a fit begins; warns where the responses do not say, so that it begins at random."""
        ridge = self.ridge
        with self.console.progress("closed-form start", len(self.statistics), unit="slots") as progress:
            start = start_from_responses(
                self.pooled,
                self.statistics,
                ridge.ridge,
                ridge.penalty,
                self.targets,
                self.split,
                universal_dim=universal_dim,
                voxels_per_block=VOXELS_PER_BLOCK,
                seed=seed,
                progress=progress.reach,
            )
        if not start.from_responses:
            self.console.warn(
                "the features predict held-out responses no better than their mean: the fit starts at random"
            )
        return start


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
        partial = self.path.with_suffix(".partial")
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


def fit_alignment(
    pooled: Sequence[Float],
    targets: Float,
    nodes: NodeSample,
    split: ImageSplit,
    settings: FitSettings,
    *,
    universal_dim: int,
    device: torch.device,
    console: Console,
    baseline: Baseline | None = None,
    checkpoint: Checkpoint | None = None,
) -> AlignmentFit:
    """Minimize Eq. 10 until no epoch is better; returns the finished fit, whose `best` is the maps and the readout.

    pooled     : per model (layers, images, D_i), means over tokens
    targets    : (images, voxels), z-scored over the training images
    nodes      : tokens for the regularizers
    baseline   : of the same arrays; measured here if not given
    checkpoint : where to go on from, and to keep the state; without it the fit begins at the closed-form start
    """
    known = baseline or Baseline(pooled, targets, split, device=device, console=console)
    state = None if checkpoint is None else checkpoint.load()
    fit = AlignmentFit(
        pooled,
        targets,
        nodes.train,
        nodes.validation,
        known.statistics,
        split,
        state or known.start(universal_dim=universal_dim, seed=settings.seed),
        settings,
        device=device,
    )
    label = f"fit seed {settings.seed}"
    with console.progress(label, settings.epochs, unit="epochs", done=len(fit.history) - 1) as progress:
        _show(fit.history[-1], progress, console)
        while not fit.finished:
            record = fit.run_epoch()
            progress.advance()
            _show(record, progress, console)
            if checkpoint is not None:
                checkpoint.save(fit)
    return fit


def _show(record: EpochRecord, progress: Progress, console: Console) -> None:
    terms = {name: getattr(record, f"validation_{name}") for name in ("brain", "eigen", "zero", "cov")}
    text = f"R2 {record.validation_r2:.4f}, " + ", ".join(f"{k} {v:.3g}" for k, v in terms.items())
    progress.advance(0, text)
    console.detail(f"epoch {record.epoch}: validation {text}{' *' if record.kept else ''}")
