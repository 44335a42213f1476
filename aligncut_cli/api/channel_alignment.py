"""ChannelAlignment: the maps of `align` as an estimator, by the stage's own fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from aligncut_cli.api.arrays import Float, Table, as_seed, plain
from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.maths.encoding import AlignmentMaps, predict_from_pooled
from aligncut_cli.maths.response_units import restore_units
from aligncut_cli.maths.ridge import score_voxels
from aligncut_cli.maths.split_images import split_images
from aligncut_cli.params import BRAIN_CHANNELS, AlignParams
from aligncut_cli.stages.align.data import NODE_IMAGES, VALIDATION_NODE_IMAGES, NodeSample, choose_tokens
from aligncut_cli.stages.align.fit import FitData, choose_fallback, fit_alignment, fit_settings

_DEFAULT = AlignParams()


class ChannelAlignment(BaseEstimator):  # type: ignore[misc]
    """Linear maps of several slots (model, layer) into one space, learned by predicting responses (Eq. 1, 2 and 10).

    Parameters
    ----------
    universal_dim : channels of the universal space (D')
    epochs, patience, batch_images, learning_rate, weight_decay : of the descent
    lambda_eigen, lambda_zero, lambda_cov : weights of the regularizers (Eq. 5 to 7)
    nodes         : tokens sampled per step for the eigen-constraint
    eigenvectors  : that the eigen-constraint preserves
    centre        : keep each slot's mean token at zero
    start         : 'responses' for the closed-form start, or 'random'
    validation_share, test_share : shares of images that decide when to stop, and that are not fitted to
    device        : 'auto', 'cpu', 'cuda' or 'cuda:N'
    random_state  : seed of the split, the tokens and the descent

    Attributes
    ----------
    weights_      : per slot (D_i, D') float32, W of Eq. 1
    readout_      : (D', voxels) float32, beta of Eq. 2
    bias_         : (voxels,) float32, eps of Eq. 2
    split_        : rows of the images that fit (`train`), stop (`validation`) and are held out (`test`)
    history_      : per epoch what it reached, the first being the start
    """

    def __init__(
        self,
        universal_dim: int = BRAIN_CHANNELS,
        *,
        epochs: int = _DEFAULT.epochs,
        patience: int = _DEFAULT.patience,
        batch_images: int = _DEFAULT.batch_images,
        learning_rate: float = _DEFAULT.learning_rate,
        weight_decay: float = _DEFAULT.weight_decay,
        lambda_eigen: float = _DEFAULT.lambda_eigen,
        lambda_zero: float = _DEFAULT.lambda_zero,
        lambda_cov: float = _DEFAULT.lambda_cov,
        nodes: int = _DEFAULT.nodes,
        eigenvectors: int = _DEFAULT.eigenvectors,
        centre: bool = _DEFAULT.centre,
        start: str = _DEFAULT.start,
        validation_share: float = _DEFAULT.validation_share,
        test_share: float = _DEFAULT.test_share,
        device: str = "auto",
        random_state: Any = _DEFAULT.seed,
    ) -> None:
        self.universal_dim = universal_dim
        self.epochs = epochs
        self.patience = patience
        self.batch_images = batch_images
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.lambda_eigen = lambda_eigen
        self.lambda_zero = lambda_zero
        self.lambda_cov = lambda_cov
        self.nodes = nodes
        self.eigenvectors = eigenvectors
        self.centre = centre
        self.start = start
        self.validation_share = validation_share
        self.test_share = test_share
        self.device = device
        self.random_state = random_state

    def fit(
        self, features: Sequence[Any], responses: Any, *, image_ids: Sequence[str] | None = None
    ) -> ChannelAlignment:
        """Fit the maps and the readout; images of `split_.test` are left out.

        features  : per slot (images, tokens, D_i), or (images, D_i) means over tokens; arrays, tensors or Zarr arrays
        responses : (images, voxels), any unit
        image_ids : names by which tokens are drawn; None for the rows' numbers
        raises    : ValueError (UsageError, BadInput) for parameters out of bounds and arrays that do not fit together
        """
        options = {name: plain(value) for name, value in self.get_params().items()}
        del options["device"]
        seed = as_seed(options.pop("random_state"))
        params = AlignParams(**options, seed=seed)
        targets = np.array(responses, dtype=np.float32)
        slots = _check(features, targets)
        n_images = len(targets)
        ids = [str(name) for name in (range(n_images) if image_ids is None else image_ids)]
        if len(ids) != n_images:
            raise BadInput(f"{len(ids)} image ids of {n_images} images", do="Give one id per image.")
        split = split_images(
            n_images, validation_share=params.validation_share, test_share=params.test_share, seed=params.seed
        )
        n_tokens = min(slot.leading[1] if len(slot.leading) > 1 else 1 for slot in slots)
        train, validation = (
            choose_tokens(ids, rows, count, n_tokens=n_tokens, seed=params.seed)
            for rows, count in ((split.train, NODE_IMAGES), (split.validation, VALIDATION_NODE_IMAGES))
        )
        console = _Silent(quiet=True)
        data = FitData(
            [_average(slot)[None] for slot in slots],
            targets,
            NodeSample([_take(slot, train) for slot in slots], [_take(slot, validation) for slot in slots]),  # type: ignore[misc]
            split,
            device=resolve_device(self.device),
            console=console,
            warn=console.warn,
        )
        fit = fit_alignment(
            data,
            fit_settings(params, params.seed),
            start=lambda: data.start(params.start, universal_dim=params.channels, seed=params.seed),
            centre=params.centre,
            fallback=choose_fallback(params, data),
        )
        maps = restore_units(fit.best, data.mean, data.deviation)
        self.weights_ = [weight[0].cpu().numpy() for weight in maps.weights]
        self.readout_, self.bias_ = maps.readout.cpu().numpy(), maps.bias.cpu().numpy()
        self.split_, self.history_ = split, [vars(epoch) for epoch in fit.history]
        return self

    def transform(self, features: Sequence[Any]) -> list[Float]:
        """Map features of every slot into the universal space (Eq. 1).

        features : per slot (..., D_i), read block by block
        returns  : per slot (..., D') float32
        """
        return [
            slot.map(lambda rows, w=weight: rows @ w, weight.shape[1])  # type: ignore[misc]
            for slot, weight in zip(self._open(features), self.weights_, strict=True)
        ]

    def predict(self, features: Sequence[Any]) -> Float:
        """Predict responses (Eq. 2).

        features : per slot (images, tokens, D_i) or (images, D_i)
        returns  : (images, voxels) float32, in the unit of the responses
        """
        slots = self._open(features)
        maps = AlignmentMaps(
            tuple(torch.from_numpy(weight)[None] for weight in self.weights_),
            torch.from_numpy(self.readout_),
            torch.from_numpy(self.bias_),
        )
        predicted: Float = predict_from_pooled([torch.from_numpy(_average(slot))[None] for slot in slots], maps).numpy()
        return predicted

    def score(self, features: Sequence[Any], responses: Any) -> float:
        """Return the variance explained, mean over voxels; 0 for a voxel that is constant.

        features  : per slot (images, tokens, D_i) or (images, D_i)
        responses : (images, voxels)
        """
        measured = torch.from_numpy(np.array(responses, dtype=np.float32))
        return float(score_voxels(torch.from_numpy(self.predict(features)), measured).mean())

    def _open(self, features: Sequence[Any]) -> list[Table]:
        check_is_fitted(self, "weights_")
        slots = [Table(array) for array in features]
        if [slot.width for slot in slots] != [len(weight) for weight in self.weights_]:
            raise BadInput(
                f"features of {[slot.width for slot in slots]} channels, and the maps are of "
                f"{[len(weight) for weight in self.weights_]}",
                do="Give the slots that it was fitted to, in the same order.",
            )
        return slots


class _Silent(Console):
    """Says nothing; warnings go to Python's own."""

    def warn(self, text: str) -> None:
        """Pass a warning on."""
        import warnings

        warnings.warn(text, stacklevel=2)


def _check(features: Sequence[Any], targets: Float) -> list[Table]:
    slots = [Table(array) for array in features]
    if targets.ndim != 2 or not np.isfinite(targets).all():
        raise BadInput(f"responses of shape {targets.shape} are no table", do="Give (images, voxels), without NaN.")
    for number, slot in enumerate(slots):
        if len(slot.leading) not in (1, 2) or slot.leading[0] != len(targets):
            raise BadInput(
                f"slot {number} has shape {(*slot.leading, slot.width)}, and there are {len(targets)} responses",
                do="Give (images, tokens, channels) or (images, channels) per slot.",
            )
    if not slots:
        raise BadInput("there is no slot", do="Give a list with one array per model and layer.")
    return slots


def _average(slot: Table) -> Float:
    """Return means over tokens, (images, D_i), block by block."""
    if len(slot.leading) == 1:
        return slot.map(lambda rows: rows, slot.width)
    total = np.zeros((slot.leading[0], slot.width), dtype=np.float64)
    for where, rows in slot.blocks():
        n_images = where[0].stop - where[0].start
        total[where[0]] += rows.reshape(n_images, -1, slot.width).sum(axis=1, dtype=np.float64)
    return (total / slot.leading[1]).astype(np.float32)


def _take(slot: Table, places: NDArray[np.int64]) -> Float:
    """Return tokens (1, n, D_i) at (n, 2) image and token; of means, which have one token each, their images."""
    rows = places[:, 0] if len(slot.leading) == 1 else places[:, 0] * slot.leading[1] + places[:, 1]
    return slot.take(rows)[None]
