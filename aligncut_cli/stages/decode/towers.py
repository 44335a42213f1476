"""One fold by towers: maps of the held-out images, and the weights by which responses become maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.maths.split_images import ImageSplit
from aligncut_cli.maths.tower_fit import Batch, TowerSettings, train_towers
from aligncut_cli.maths.towers import GRID, Towers
from aligncut_cli.params import DecodeParams
from aligncut_cli.stages.decode.folds import FoldFit
from aligncut_cli.stages.decode.ridge import ReadResponses, ResponseScale

Floats = NDArray[np.float32]
Index = NDArray[np.int64]
BLOCK = 256


@dataclass(frozen=True)
class ColourScale:
    """Mean and deviation of the colours over the training images, (3,)."""

    mean: Floats
    deviation: Floats

    @classmethod
    def measure(cls, pictures: Any, images: Index) -> ColourScale:
        """Measure them in blocks of images."""
        total, square, count = np.zeros(3), np.zeros(3), 0
        for start in range(0, len(images), BLOCK):
            values = np.asarray(pictures[images[start : start + BLOCK]], dtype=np.float64).reshape(-1, 3)
            total, square = total + values.sum(axis=0), square + np.square(values).sum(axis=0)
            count += len(values)
        mean = total / count
        deviation = np.sqrt(np.maximum(square / count - mean**2, 0))
        return cls(mean.astype(np.float32), np.maximum(deviation, 1).astype(np.float32))

    def apply(self, pictures: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
        """Return photos as a network takes them, (b, 3, side, side)."""
        values = torch.from_numpy((pictures - self.mean) / self.deviation).to(device)
        return values.permute(0, 3, 1, 2)  # which leaves the channels last in memory, as convolutions here like it


def fit_by_towers(
    pictures: Any,
    read: ReadResponses,
    categories: Index | None,
    split: ImageSplit,
    params: DecodeParams,
    *,
    fold: int,
    device: torch.device,
) -> FoldFit:
    """Train both towers on the training images, stop on the validation images, and map the held-out ones.

    pictures   : (images, side, side, rgb) uint8, in memory or on disk
    read       : responses of some images, (b, neurons)
    categories : (images,) or None
    """
    scale = ResponseScale.measure(read, split.train)
    colours = ColourScale.measure(pictures, split.train)
    belongs = np.zeros(len(pictures), np.int64) if categories is None else categories

    def read_batch(images: Index) -> Batch:
        return Batch(
            colours.apply(pictures[images], device),
            torch.from_numpy(scale.apply(read(images)).astype(np.float32)).to(device),
            torch.from_numpy(belongs[images]).to(device),
        )

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.default_rng([params.seed, 16, fold]).integers(2**62)))
        towers = Towers(
            neurons=len(scale.mean),
            channels=params.channels,
            dropout=params.dropout,
            objective=params.objective,
            categories=int(belongs.max()) + 1,
        ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        settings = TowerSettings(
            params.epochs, params.patience, params.batch_images, params.learning_rate, params.weight_decay
        )
        history = train_towers(
            towers,
            read_batch,
            train=split.train,
            validation=split.validation,
            settings=settings,
            seed=int(np.random.default_rng([params.seed, 17, fold]).integers(2**31)),
        )
    towers.eval()
    centre = _map_images(towers, pictures, colours, split.train, device).mean(axis=0, dtype=np.float64)
    maps = (_map_images(towers, pictures, colours, split.test, device) - centre).astype(np.float32)
    weight = towers.neural.weight.detach().T.cpu().numpy().copy()
    by_response = params.objective == "regression"
    return FoldFit(
        responses=scale.apply(read(split.test)).astype(np.float32),
        candidates=maps @ weight.T if by_response else maps,
        weight=np.empty((0, 0), np.float32) if by_response else weight,
        activity=scale.mean.astype(np.float32),
        maps=maps.reshape(len(maps), params.channels, GRID, GRID),
        look=measure_look(weight, params.channels),
        record={"epochs": len(history.losses), "kept": history.kept, "validation_loss": min(history.losses)},
    )


@torch.no_grad()
def _map_images(towers: Towers, pictures: Any, colours: ColourScale, images: Index, device: torch.device) -> Floats:
    """Return flat maps of images, (n, channels x GRID x GRID)."""
    parts = [
        towers.image(colours.apply(pictures[images[start : start + BLOCK]], device)).flatten(1).cpu().numpy()
        for start in range(0, len(images), BLOCK)
    ]
    return np.concatenate(parts)


def measure_look(weight: Floats, channels: int) -> Floats:
    """Root mean square over channels of each neuron's weights, (neurons, row, column).

    weight : (neurons, channels x GRID x GRID)
    """
    squares = np.square(weight.reshape(len(weight), channels, GRID, GRID), dtype=np.float64)
    look: Floats = np.sqrt(squares.mean(axis=1)).astype(np.float32)
    return look
