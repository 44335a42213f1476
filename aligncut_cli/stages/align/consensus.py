"""The consensus of the slots as an alignment: maps of every slot to the axes that all of them share (no responses)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligncut_cli.console import Console, format_table
from aligncut_cli.controls import title_with_controls
from aligncut_cli.maths.centring import centre_map
from aligncut_cli.maths.consensus import Consensus, ConsensusSettings, estimate_fit_memory, fit_consensus
from aligncut_cli.maths.consensus_scores import ConsensusScores, Interval, score_consensus
from aligncut_cli.maths.sampled_tokens import (
    SampledTokens,
    measure_position_means,
    remove_position_means_,
)
from aligncut_cli.maths.slot_ridge import RowReader, SlotRidge
from aligncut_cli.maths.split_images import ImageSplit
from aligncut_cli.params import AlignParams
from aligncut_cli.stages.align.tokens import TokenSampler, slot_keys
from aligncut_cli.store.kinds.features import Features

ROWS_PER_BLOCK = 4096
# Validation and test tokens, as a share of those that are fitted to.
HELD_OUT_SHARE = 0.25
ROUNDS, TOLERANCE, MOST_PRODUCTS = 2, 5e-3, 40
CONFIDENCE, DRAWS = 0.95, 500


@dataclass(frozen=True)
class SharedMaps:
    """Maps of every slot to the consensus.

    weights : per model (layers, D_i, K) float32; a slot's mean token goes to zero (--centre), and a channel's mean
              square is 1 where all slots agree
    shared  : (K, 3) per axis the share of variance that the slots have in common on test images, with its interval
    r2      : per model (layers, 3) of each slot's prediction of the others' consensus on test images
    record  : figures for the store
    """

    weights: tuple[Tensor, ...]
    shared: NDArray[np.float32]
    r2: tuple[NDArray[np.float32], ...]
    record: Mapping[str, Any]


def estimate_memory(features: Features, params: AlignParams) -> int:
    """Return bytes that finding the consensus takes beside the process."""
    models = features.axes.models
    widths = [features.width(model.name) for model in models for _ in model.layers]
    rows = int(params.n_sample * (1 + 2 * HELD_OUT_SHARE))
    fit = estimate_fit_memory(params.n_sample, widths, n_axes=params.channels, rows_per_block=ROWS_PER_BLOCK)
    return rows * sum(widths) * 2 + fit


def find_consensus(
    features: Features,
    split: ImageSplit,
    params: AlignParams,
    *,
    means: Sequence[NDArray[np.float64]],
    device: torch.device,
    console: Console,
) -> SharedMaps:
    """Sample tokens, fit the axes, map every slot to them, and score all on images that the fit never saw.

    split : positions of images in the store
    means : per model (layers, D_i), the mean token of the training images
    """
    sampler = TokenSampler(features, seed=params.seed)
    held_out = max(2, int(params.n_sample * HELD_OUT_SHARE))
    train = sampler.draw(split.train, params.n_sample, "fit", console)
    validation = sampler.draw(split.validation, held_out, "validate", console)
    test = sampler.draw(split.test, held_out, "test", console)
    if params.remove_position:
        for number, slot in enumerate(train.slots):
            position = measure_position_means(slot, train.positions, sampler.n_positions)
            for part in (train, validation, test):
                remove_position_means_(part.slots[number], part.positions, position)
    keys = slot_keys(features.axes.models, seed=params.seed)
    parts = train, validation, test
    a, b, c = (part.shuffle_images(seed=params.seed, keys=keys) for part in parts)
    exchanged = a, b, c
    if params.control == "shuffle":
        parts = exchanged
    flat = [torch.from_numpy(mean) for model in means for mean in model]
    fit = _Fit(parts, flat, params, device, console, label="consensus")
    by_position = _Fit(exchanged, flat, params, device, console, label="position alone")
    names = [f"{model.name}:{layer}" for model in features.axes.models for layer in model.layers]
    return _collect(fit, by_position, [len(model) for model in means], names)


class _Fit:
    """One consensus of some tokens, with maps as they are used and scores on the test tokens."""

    def __init__(
        self,
        parts: tuple[SampledTokens, ...],
        means: Sequence[Tensor],
        params: AlignParams,
        device: torch.device,
        console: Console,
        *,
        label: str,
    ) -> None:
        train, validation, test = parts
        reader = RowReader(device, ROWS_PER_BLOCK)
        settings = ConsensusSettings(
            n_axes=params.channels,
            rounds=ROUNDS,
            tolerance=TOLERANCE,
            most_products=MOST_PRODUCTS,
            seed=params.seed,
        )
        with console.progress(label, 1, unit="passes") as progress:
            slots = [SlotRidge.of(rows, reader) for rows in train.slots]
            self.consensus: Consensus = fit_consensus(slots, len(train), validation, settings, progress=progress.reach)
        self.maps = list(self.consensus.maps)
        if params.centre:
            self.maps = [
                centre_map(weight, mean.to(device), slot.covariance)
                for weight, mean, slot in zip(self.maps, means, slots, strict=True)
            ]
        self.scores: ConsensusScores = score_consensus(
            test,
            self.maps,
            self.consensus.predictors,
            [slot.mean for slot in slots],
            self.consensus.weights,
            reader=reader,
            draws=DRAWS,
            confidence=CONFIDENCE,
            seed=params.seed,
        )
        self.n_tokens = len(train)


def _collect(fit: _Fit, by_position: _Fit, layers: Sequence[int], names: Sequence[str]) -> SharedMaps:
    stops = np.cumsum(layers)
    r2 = _stack(fit.scores.r2)
    rows = {
        name: {
            "weight": float(weight),
            "penalty": float(penalty) if np.isfinite(penalty) else None,
            "r2": [float(value) for value in own],
            "r2_by_position": float(other),
        }
        for name, weight, penalty, own, other in zip(
            names, fit.consensus.weights, fit.consensus.penalties, r2, by_position.scores.r2.value, strict=True
        )
    }
    record = {
        "tokens": fit.n_tokens,
        "supported": fit.consensus.supported,
        "shared": [float(value) for value in _stack(fit.scores.mean_shared)[0]],
        "shared_by_position": float(by_position.scores.mean_shared.value[0]),
        "shared_floor": fit.scores.floor,
        "r2": [float(value) for value in _stack(fit.scores.mean_r2)[0]],
        "r2_by_position": float(by_position.scores.mean_r2.value[0]),
        "residual": float(fit.consensus.axes.residual),
        "slots": rows,
    }
    weights = [
        torch.stack([fit.maps[number].float().cpu() for number in range(stop - count, stop)])
        for count, stop in zip(layers, stops, strict=True)
    ]
    return SharedMaps(
        tuple(weights),
        _stack(fit.scores.shared).astype(np.float32),
        tuple(np.split(r2.astype(np.float32), stops[:-1])),
        record,
    )


def _stack(interval: Interval) -> NDArray[np.float64]:
    """Return (k, 3): value, low, high."""
    return np.stack([interval.value, interval.low, interval.high], axis=1)


def format_consensus(record: Mapping[str, Any], controls: Sequence[str]) -> list[str]:
    """Write what the slots share as lines and a table."""
    shared, r2 = record["shared"], record["r2"]
    rows = [[name, slot["weight"], *slot["r2"], slot["r2_by_position"]] for name, slot in record["slots"].items()]
    header = ["slot", "weight", "R2", "low", "high", "R2 by position"]
    title = "held-out images: how well each slot predicts the consensus of the others"
    lines = [
        format_table(header, rows, title=title_with_controls(title, controls)),
        f"mean R2 {r2[0]:.3f} ({r2[1]:.3f} to {r2[2]:.3f}), by position alone {record['r2_by_position']:.3f}",
        f"of the axes' variance the slots share {shared[0]:.3f} ({shared[1]:.3f} to {shared[2]:.3f}), "
        f"by position alone {record['shared_by_position']:.3f}, with nothing in common {record['shared_floor']:.3f}",
    ]
    absent = [name for name, slot in record["slots"].items() if slot["penalty"] is None]
    if absent and record["supported"]:
        lines.append(f"left out, since they predict the others no better than the mean does: {', '.join(absent)}")
    if not record["supported"]:
        lines.append("No two slots predict each other better than the mean does: these axes mean nothing.")
    return lines
