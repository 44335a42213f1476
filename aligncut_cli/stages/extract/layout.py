"""What `extract` computes: which layers and how many tokens of which models, and how the images are cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aligncut_cli.errors import UsageError
from aligncut_cli.models.backbone import BackboneInfo, describe_backbone
from aligncut_cli.models.registry import ModelSpec
from aligncut_cli.params import ExtractParams
from aligncut_cli.store.nodes import image_slices, images_per_chunk
from aligncut_cli.store.write import CHUNK_BYTES


@dataclass(frozen=True)
class ModelPart:
    """What is computed of one model.

    layers   : the layer numbers kept, in order
    n_tokens : tokens kept of each image
    """

    spec: ModelSpec
    info: BackboneInfo
    layers: tuple[int, ...]
    n_tokens: int

    @property
    def name(self) -> str:
        """Return what the model is called."""
        return self.spec.name


def describe_models(specs: Sequence[ModelSpec], params: ExtractParams) -> list[ModelPart]:
    """Check that the models have what is asked of them; no weights are made."""
    parts = []
    for spec in specs:
        info = describe_backbone(spec, site=params.site)
        layers = parse_layers(params.layers, info.n_layers, spec.name)
        parts.append(ModelPart(spec, info, layers, min(params.sample_tokens or info.n_tokens, info.n_tokens)))
    return parts


def parse_layers(text: str, n_layers: int, model: str) -> tuple[int, ...]:
    """Read `all`, `0-11`, `3,6,9` or a mixture as layer numbers in increasing order."""
    if text.strip() == "all":
        return tuple(range(n_layers))
    chosen: set[int] = set()
    for part in text.split(","):
        low, dash, high = (piece.strip() for piece in part.partition("-"))
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise UsageError(f"--layers {text!r} cannot be read", do="Write all, 0-11, or 3,6,9.")
        chosen.update(range(int(low), min(int(high), 10_000) + 1) if dash else [int(low)])
    if not chosen or max(chosen) >= n_layers:
        raise UsageError(
            f"--layers {text!r}: {model} has layers 0 to {n_layers - 1}", do=f"Write --layers 0-{n_layers - 1}."
        )
    return tuple(sorted(chosen))


class Layout:
    """How the images are cut: into blocks, which are chunks of the output, and blocks into batches.

    images_per_block : the same for all models
    blocks           : of images, each written whole
    blocks_per_batch : as many as fill a batch. Batches are laid out over all blocks, not over the pending ones, so
                       that an interrupted run computes the same batches, and so the same bytes, as a whole one.
    """

    def __init__(self, models: Sequence[ModelPart], n_images: int, *, images_per_batch: int) -> None:
        self.models, self.n_images, self.images_per_batch = models, n_images, images_per_batch
        bytes_per_image = max(model.n_tokens * model.info.channels * 2 for model in models)
        self.images_per_block = images_per_chunk(bytes_per_image, n_images, target=CHUNK_BYTES)
        self.blocks = list(image_slices(n_images, self.images_per_block))
        self.blocks_per_batch = max(1, images_per_batch // self.images_per_block)

    @property
    def n_nodes(self) -> int:
        """Return how many nodes the store will have."""
        return sum(self.n_images * len(model.layers) * model.n_tokens for model in self.models)

    def batch_of(self, block: int) -> int:
        """Return which batch a block belongs to."""
        return block // self.blocks_per_batch

    def batch_images(self, batch: int) -> slice:
        """Return the images of a batch."""
        blocks = self.blocks[batch * self.blocks_per_batch : (batch + 1) * self.blocks_per_batch]
        return slice(blocks[0].start, blocks[-1].stop)

    def estimate_memory(self) -> int:
        """Return bytes: the weights of all models, and for a batch every layer's tokens and their working space."""
        rows = max(self.images_per_batch, self.images_per_block)
        infos = [model.info for model in self.models]
        weights = sum(12 * info.channels**2 * info.n_layers * 4 for info in infos)
        tokens = sum(
            rows * model.info.n_tokens * model.info.channels * 2 * len(model.layers) * 2 for model in self.models
        )
        in_work = min(rows, self.images_per_batch)
        working = max(in_work * info.n_tokens * info.channels * 4 * 16 for info in infos)
        return weights * 3 // 2 + tokens + working

    def estimate_disk(self, *, save: str) -> int:
        """Return the bytes to be written of tokens and means."""
        per_token = 0 if save == "pooled" else 2
        return sum(
            self.n_images * len(model.layers) * model.info.channels * (per_token * model.n_tokens + 4)
            for model in self.models
        )
