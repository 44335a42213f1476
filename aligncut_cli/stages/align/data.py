"""What alignments are fitted to: features and responses of the same images, split for each fit, read when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.brain.subjects import join_subjects
from aligncut_cli.brain.table import Responses
from aligncut_cli.errors import BadInput
from aligncut_cli.maths.control_targets import draw_random_targets, shuffle_pairs
from aligncut_cli.maths.sampling import stable_hash
from aligncut_cli.maths.split_images import ImageSplit, split_images, split_into_folds
from aligncut_cli.params import AlignParams
from aligncut_cli.store.kinds.features import Features
from aligncut_cli.store.nodes import ModelAxes, image_slices
from aligncut_cli.store.phases import load_ahead

# Tokens for the regularizers: this many images of each part, and this many tokens of each.
NODE_IMAGES, VALIDATION_NODE_IMAGES, NODE_TOKENS = 256, 64, 32

Float = NDArray[np.float32]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class NodeSample:
    """Single tokens for the regularizers, the same ones in every slot; per model (layers, n, D_i)."""

    train: Sequence[NDArray[np.float16]]
    validation: Sequence[NDArray[np.float16]]


@dataclass(frozen=True)
class Job:
    """One fit: its number, the run that it is scored with, its fold, seed, and the seed of its control."""

    number: int
    run: int
    fold: int
    seed: int
    control_seed: int


def list_jobs(params: AlignParams) -> list[Job]:
    """Return every fit asked for: runs are repeated controls and seeds, and each run has all folds."""
    repeats = range(params.repeat if params.control != "none" else 1)
    runs = [(params.seed + repeat, params.seed + seed) for repeat in repeats for seed in range(params.seeds)]
    return [
        Job(run * params.folds + fold, run, fold, seed, control_seed)
        for run, (control_seed, seed) in enumerate(runs)
        for fold in range(params.folds)
    ]


def choose_tokens(ids: Sequence[str], places: Index, count: int, *, n_tokens: int, seed: int) -> Index:
    """Choose tokens for the regularizers, the same for every slot; seed and image id decide.

    ids     : of every image
    places  : which of the images may be taken
    count   : of images, at most
    returns : (n, 2) image and token, the image ascending
    """
    order = np.argsort([stable_hash(seed, "nodes", ids[place]) for place in places], kind="stable")
    chosen = []
    for place in np.sort(places[order[:count]]):
        rng = np.random.default_rng([seed, int(stable_hash(seed, ids[place]))])
        tokens = np.sort(rng.choice(n_tokens, size=min(NODE_TOKENS, n_tokens), replace=False))
        chosen.append(np.stack([np.full(len(tokens), place), tokens], axis=1))
    return np.concatenate(chosen)


class FeatureData:
    """Features of the images that take part, and how these are split.

    rows   : (images,) where each lies in the store
    splits : of every fold: which images fit, stop, and are scored, as positions in `rows`
    """

    def __init__(self, features: Features, rows: Index, params: AlignParams) -> None:
        self.features, self.rows, self.params = features, rows, params
        self.models = features.axes.models
        self.splits = self._split()
        for model in self.models:
            self._require(model.name)
        self.channels = {model.name: features.width(model.name) for model in self.models}

    def _split(self) -> list[ImageSplit]:
        params = self.params
        seed = params.seed if params.split_seed is None else params.split_seed
        share = params.validation_share
        if params.folds > 1:
            return split_into_folds(self.n_images, n_folds=params.folds, validation_share=share, seed=seed)
        return [split_images(self.n_images, validation_share=share, test_share=params.test_share, seed=seed)]

    def _require(self, model: str) -> None:
        if not self.features.has_tokens(model):
            raise BadInput(
                f"{self.features.store.path} has no tokens, which the regularizers need",
                do="Extract with --save both; --sample-tokens 20 keeps the store small.",
            )
        if not self.features.has_pooled(model) and self.features.kept_tokens(model) is not None:
            raise BadInput(
                f"{self.features.store.path} has sampled tokens only, and the means need all",
                do="Extract with --save both.",
            )

    @property
    def n_images(self) -> int:
        """Return how many images take part."""
        return len(self.rows)

    @property
    def n_channels(self) -> int:
        """Return the channels of all slots together, the sum of D_i over the layers of all models."""
        return sum(len(model.layers) * self.channels[model.name] for model in self.models)

    @cached_property
    def pooled(self) -> list[Float]:
        """Return per model (layers, images, D_i), means over tokens."""
        parts = [self._read_means(model) for model in self.models]
        for model, values in zip(self.models, parts, strict=True):
            if not np.isfinite(values).all():
                raise BadInput(f"{self.features.store.path}: means of {model.name} are not finite", do="Extract again.")
        return parts

    def _read_means(self, model: ModelAxes) -> Float:
        """Return (layers, images, D_i) of the images that take part; the others are not read, nor held."""
        stored = self.features.has_pooled(model.name)
        out = np.empty((len(model.layers), self.n_images, self.channels[model.name]), dtype=np.float32)
        for images in self._chunks(model):
            own = np.flatnonzero((self.rows >= images.start) & (self.rows < images.stop))
            if len(own):
                means = (
                    self.features.read_pooled(model.name, images)
                    if stored
                    else self.features.read_tokens(model.name, images).mean(2, dtype=np.float32)
                )
                out[:, own] = means[:, self.rows[own] - images.start]
        return out

    def _chunks(self, model: ModelAxes) -> list[slice]:
        return list(image_slices(model.n_images, self.features.images_per_chunk[model.name]))

    def average_tokens(self, split: ImageSplit) -> list[NDArray[np.float64]]:
        """Return per model (layers, D_i), the mean token of the training images."""
        return [values[:, split.train].mean(axis=1, dtype=np.float64) for values in self.pooled]

    def sample_nodes(self, split: ImageSplit) -> NodeSample:
        """Return tokens of some training and of some validation images."""
        train = self._choose_tokens(split.train, NODE_IMAGES)
        validation = self._choose_tokens(split.validation, VALIDATION_NODE_IMAGES)
        return NodeSample(
            [self._read_tokens(model, train) for model in self.models],
            [self._read_tokens(model, validation) for model in self.models],
        )

    def _choose_tokens(self, images: Index, count: int) -> Index:
        n_tokens = min(model.n_tokens for model in self.models)
        return choose_tokens(self.features.ids, self.rows[images], count, n_tokens=n_tokens, seed=self.params.seed)

    def _read_tokens(self, model: ModelAxes, places: Index) -> NDArray[np.float16]:
        """Read tokens of every layer, (layers, n, D_i); places (n, 2) are ascending in the image."""
        out = np.empty((len(model.layers), len(places), self.channels[model.name]), dtype=np.float16)
        wanted = []
        for images in self._chunks(model):
            low, high = np.searchsorted(places[:, 0], [images.start, images.stop])
            if high > low:
                wanted.append((images, slice(low, high)))

        def load(item: tuple[slice, slice]) -> NDArray[np.float16]:
            return self.features.read_tokens(model.name, item[0])

        for (images, where), block in load_ahead(wanted, load):
            out[:, where] = block[:, places[where, 0] - images.start, places[where, 1]]
        if not np.isfinite(out).all():
            raise BadInput(f"{self.features.store.path}: tokens of {model.name} are not finite", do="Extract again.")
        return out


class AlignmentData(FeatureData):
    """Features and responses of the images that have both; responses are given by the subject's name."""

    def __init__(self, features: Features, responses: Mapping[str, Responses], params: AlignParams) -> None:
        self.responses = join_subjects(
            features.ids,
            responses,
            paths=[str(path) for path in features.images()["path"]],
            order=None if params.order == "auto" else params.order,
        )
        super().__init__(features, self.responses.feature_rows, params)

    @property
    def n_voxels(self) -> int:
        """Return how many voxels respond."""
        return self.responses.n_voxels

    def read_targets(self, control_seed: int) -> Float:
        """Return the responses, (images, voxels), or what the control puts in their place."""
        rows = np.arange(self.n_images)
        if self.params.control == "shuffle":
            rows = rows[shuffle_pairs(len(rows), seed=control_seed)]
        values = self.responses.read(rows)
        if self.params.control == "random":
            values = draw_random_targets(values, np.arange(len(rows)), seed=control_seed)
        return values
