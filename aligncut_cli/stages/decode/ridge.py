"""One fold by ridge: predicted responses of the held-out images (Stringer et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.maths.exact_reduction import reduce_features
from aligncut_cli.maths.split_images import ImageSplit
from aligncut_cli.maths.streamed_ridge import GramSums, PenaltyTrial, SlotSpread
from aligncut_cli.stages.decode.blocks import FeatureBlocks, HeldFeatures
from aligncut_cli.stages.decode.folds import FoldFit

Floats = NDArray[np.float32]
Double = NDArray[np.float64]
Index = NDArray[np.int64]
ReadResponses = Callable[[Index], Floats]
BLOCK = 1024


@dataclass(frozen=True)
class ResponseScale:
    """Mean and deviation of every neuron over the training images, (neurons,); infinity where it is constant."""

    mean: Double
    deviation: Double

    @classmethod
    def measure(cls, read: ReadResponses, images: Index) -> ResponseScale:
        """Measure them in blocks of images."""
        total, square = 0.0, 0.0
        first = read(images[:1])[0].astype(np.float64)
        for start in range(0, len(images), BLOCK):
            values = read(images[start : start + BLOCK]) - first
            total, square = total + values.sum(axis=0), square + np.square(values).sum(axis=0)
        mean = np.asarray(total / len(images))
        variance = square / len(images) - mean**2
        varies = variance > 1e-12 * np.maximum(square / len(images), 1e-300)
        return cls(mean + first, np.where(varies, np.sqrt(np.where(varies, variance, 1)), np.inf))

    def apply(self, values: Floats) -> Double:
        """Return z-scores."""
        return np.asarray((values - self.mean) / self.deviation, dtype=np.float64)


def fit_by_ridge(features: FeatureBlocks, read: ReadResponses, split: ImageSplit, *, device: torch.device) -> FoldFit:
    """Fit features to responses, the penalty chosen on validation images and the weights fitted on these too.

    read : responses of some images, (b, neurons)
    """
    fitted = np.union1d(split.train, split.validation)
    scale = ResponseScale.measure(read, fitted)
    spread = SlotSpread(features.widths)
    for _, values in features.iterate(fitted):
        spread.add(values)
    mean, factor = spread.mean, spread.factor

    def scaled(source: FeatureBlocks, images: Index) -> Iterator[tuple[Index, Floats]]:
        for rows, values in source.iterate(images):
            yield rows, ((values - mean) * factor).astype(np.float32)

    blocks: FeatureBlocks = features
    if len(mean) > len(fitted):
        everything = np.empty((len(fitted) + len(split.test), len(mean)), dtype=np.float32)
        for rows, values in scaled(features, np.arange(len(everything))):
            everything[rows] = values
        blocks = HeldFeatures(reduce_features(everything, fitted, device=device))
        mean, factor = np.zeros(1), np.ones(1)  # `scaled` leaves these coordinates as they are
    n_features, n_neurons = sum(blocks.widths), len(scale.mean)

    def tensors(images: Index) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for rows, values in scaled(blocks, images):
            yield (
                torch.from_numpy(values).to(device, torch.float64),
                torch.from_numpy(scale.apply(read(rows))).to(device),
            )

    parts = {}
    for name, images in (("train", split.train), ("validation", split.validation)):
        parts[name] = GramSums(n_features, n_neurons, device)
        for x, y in tensors(images):
            parts[name].add(x, y)
    trial = PenaltyTrial(parts["train"].solve())
    for x, y in tensors(split.validation):
        trial.add(x, y)
    penalty = trial.best()
    parts["train"].add_sums(parts["validation"])
    ridge = parts["train"].solve()
    weights = ridge.solve_penalty(penalty)
    predicted, measured = [], []
    for x, y in tensors(split.test):
        predicted.append(((x - ridge.mean_x) @ weights).to(torch.float32).cpu().numpy())
        measured.append(y.to(torch.float32).cpu().numpy())
    return FoldFit(
        responses=np.concatenate(measured),
        candidates=np.concatenate(predicted),
        weight=np.empty((0, 0), np.float32),
        activity=scale.mean.astype(np.float32),
        maps=np.empty((0, 0, 0, 0), np.float32),
        look=np.empty((0, 0, 0), np.float32),
        record={"penalty": penalty if np.isfinite(penalty) else None},
    )
