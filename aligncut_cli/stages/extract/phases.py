"""The computation of `extract`: check the images, run the models over blocks of them, write tokens and means."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.console import Console
from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.images.files import ImageFile
from aligncut_cli.images.workers import ImageDecoder, check_images
from aligncut_cli.maths.device import resolve_device
from aligncut_cli.maths.sampling import node_keys, stable_hash
from aligncut_cli.models.backbone import Backbone, BackboneInfo, describe_backbone, load_backbone
from aligncut_cli.models.registry import ModelSpec
from aligncut_cli.params import ExtractParams, RunOptions
from aligncut_cli.store.nodes import ModelAxes, NodeAxes, image_slices, images_per_chunk
from aligncut_cli.store.run import Outcome, Plan, Work
from aligncut_cli.store.write import (
    CHUNK_BYTES,
    Writer,
    create_array,
    create_group,
    create_node_arrays,
    put,
    put_images,
)

CPU_BATCH, CUDA_BATCH = 16, 64
PROCESS_BYTES = 700_000_000  # python with torch and timm loaded


class ExtractPhases:
    """One run of the stage: the models, the images that can be decoded, and their blocks."""

    def __init__(
        self,
        work: Work,
        files: list[ImageFile],
        specs: list[ModelSpec],
        params: ExtractParams,
        options: RunOptions,
        console: Console,
    ) -> None:
        self.work, self.specs, self.params, self.console = work, specs, params, console
        self.device = resolve_device(options.device)
        self.batch = options.batch_size or (CUDA_BATCH if self.device.type == "cuda" else CPU_BATCH)
        self.workers = options.workers if options.workers is not None else max(1, min(8, (os.cpu_count() or 2) - 1))
        self.infos = [describe_backbone(spec) for spec in specs]
        self.layers = [
            parse_layers(params.layers, info.n_layers, spec.name) for spec, info in zip(specs, self.infos, strict=True)
        ]
        self.files, self.sizes, self.skipped = self._check_images(files)

    def run(self) -> Outcome:
        """Plan, and compute every block that is not done."""
        n_images = len(self.files)
        kept = [self._tokens_kept(info) for info in self.infos]
        bytes_per_image = max(count * info.channels * 2 for count, info in zip(kept, self.infos, strict=True))
        self.per_block = images_per_chunk(bytes_per_image, n_images, target=CHUNK_BYTES)
        self.blocks = list(image_slices(n_images, self.per_block))
        nodes = sum(n_images * len(layers) * count for layers, count in zip(self.layers, kept, strict=True))
        plan = Plan(
            phases={"create": 1, "blocks": len(self.blocks)},
            memory=self._estimate_memory(),
            disk=sum(
                n_images * len(layers) * info.channels * (2 * count * (self.params.save != "pooled") + 4)
                for info, layers, count in zip(self.infos, self.layers, kept, strict=True)
            ),
            notes={"images": n_images, "nodes": nodes},
        )
        if not self.work.accept(plan):
            return self.work.outcome()
        if not self.work.done("create") or self.work.count_done("blocks") < len(self.blocks):
            backbones = self._load()
            if not self.work.done("create"):
                self._create(backbones)
                self.work.mark("create")
            self._compute(backbones)
        outcome = self.work.finish(
            models=[spec.name for spec in self.specs],
            summary={"images": n_images, "skipped": len(self.skipped), "nodes": nodes},
        )
        self.console.note(f"{n_images:,} images, {nodes:,} nodes of {', '.join(spec.name for spec in self.specs)}")
        return outcome

    # planning

    def _check_images(
        self, files: list[ImageFile]
    ) -> tuple[list[ImageFile], list[tuple[int, int]], list[tuple[ImageFile, str]]]:
        """Decode every image once, coarsely, before hours are spent; returns good images, their sizes, and bad ones."""
        with self.console.progress("check images", len(files), unit="images") as progress:
            good, sizes, bad = check_images(
                files, workers=self.workers, skip_bad=self.params.skip_bad, progress=progress.reach
            )
        for _, reason in bad:
            self.console.warn(f"left out: {reason}")
        return good, sizes, bad

    def _tokens_kept(self, info: BackboneInfo) -> int:
        return min(self.params.sample_tokens or info.n_tokens, info.n_tokens)

    def _estimate_memory(self) -> int:
        """Return bytes: the weights of all models, and for a group every layer's tokens and their working space."""
        rows = max(self.batch, self.per_block)
        weights = sum(12 * info.channels**2 * info.n_layers * 4 for info in self.infos)
        tokens = sum(
            rows * info.n_tokens * info.channels * 2 * len(layers) * 2
            for info, layers in zip(self.infos, self.layers, strict=True)
        )
        working = max(min(rows, self.batch) * info.n_tokens * info.channels * 4 * 16 for info in self.infos)
        return PROCESS_BYTES + weights * 3 // 2 + tokens + working

    def _load(self) -> list[Backbone]:
        backbones = []
        for spec, layers in zip(self.specs, self.layers, strict=True):
            backbone = load_backbone(
                spec, layers=layers, seed=self.params.seed, device=self.device, announce=self.console.note
            )
            if backbone.weights_record["source"] == "random":
                self.console.warn(f"{spec.name} has random weights: it has learned nothing. The store records this.")
            backbones.append(backbone)
        return backbones

    # writing

    def _create(self, backbones: list[Backbone]) -> None:
        """Create the arrays of a features store, with the images' table."""
        root = create_group(self.work.staging)
        heights, widths = zip(*self.sizes, strict=True)
        put_images(
            root,
            {
                "id": np.array([file.id for file in self.files], dtype=object),
                "path": np.array([str(file.path.resolve()) for file in self.files], dtype=object),
                "height": np.array(heights, dtype=np.int32),
                "width": np.array(widths, dtype=np.int32),
            },
            {"skipped": [{"path": str(file.path), "reason": reason} for file, reason in self.skipped]},
        )
        for backbone, spec, layers in zip(backbones, self.specs, self.layers, strict=True):
            info, n_images, n_tokens = backbone.info, len(self.files), self._tokens_kept(backbone.info)
            attributes = {
                "timm": spec.timm_name,
                "layers": list(layers),
                "grid": list(info.grid),
                "class_token": info.class_token,
                "image_size": list(info.image_size),
                "weights": dict(backbone.weights_record),
                "n_images": n_images,
                "n_tokens": n_tokens,
            }
            axes = ModelAxes(spec.name, layers, n_images, n_tokens, info.grid, info.class_token, attributes)
            folder = root.create_group(spec.name, attributes=attributes)
            if self.params.save != "pooled":
                create_node_arrays(
                    root,
                    NodeAxes((axes,)),
                    "tokens",
                    dtype="float16",
                    last=("channel", info.channels),
                    images_per_block={spec.name: self.per_block},
                )
            if self.params.save != "tokens":
                create_array(
                    folder,
                    "pooled",
                    shape=(len(layers), n_images, info.channels),
                    dtype="float32",
                    dims=["layer", "image", "channel"],
                    chunks=(len(layers), self.per_block, info.channels),
                )
            if self.params.sample_tokens is not None:
                put(folder, "token", self._sample_tokens(info.n_tokens), ["image", "token"])

    def _sample_tokens(self, n_tokens: int) -> NDArray[np.int32]:
        """Choose which tokens are kept of each image, (image, token), increasing; seed and image id decide.

        Models with as many tokens keep the same ones, so that slots can be compared token by token.
        """
        images = [stable_hash(self.params.seed, "image", file.id) for file in self.files]
        keys = node_keys(np.array(images, dtype=np.uint64), stable_hash(self.params.seed, "tokens"), n_tokens)
        count = min(self.params.sample_tokens or n_tokens, n_tokens)
        return np.sort(np.argsort(keys, axis=1, kind="stable")[:, :count], axis=1).astype(np.int32)

    def _compute(self, backbones: list[Backbone]) -> None:
        """Run the models over every pending block.

        Blocks are computed in groups that fill a batch. The groups are laid out over all blocks, not over the
        pending ones, so that an interrupted run computes the same batches, and so the same bytes, as a whole one.
        """
        per_group = max(1, self.batch // self.per_block)
        pending = set(self.work.pending("blocks"))
        starts = range(0, len(self.blocks), per_group)
        groups = [range(start, min(start + per_group, len(self.blocks))) for start in starts]
        groups = [group for group in groups if pending.intersection(group)]
        sizes = sorted({backbone.info.image_size for backbone in backbones})
        wanted = [file for group in groups for block in group for file in self.files[self.blocks[block]]]
        already = len(self.files) - sum(self.blocks[i].stop - self.blocks[i].start for i in pending)
        writer = Writer(self.work.staging)
        with (
            ImageDecoder(wanted, sizes, workers=self.workers) as decoder,
            self.console.progress("extract", len(self.files), unit="images", done=already) as progress,
        ):
            decoded = iter(decoder)
            for group in groups:
                first, last = self.blocks[group[0]].start, self.blocks[group[-1]].stop
                pictures = [next(decoded) for _ in range(first, last)]
                for backbone, spec in zip(backbones, self.specs, strict=True):
                    at = sizes.index(backbone.info.image_size)
                    tokens, pooled = self._extract(backbone, spec, [copies[at] for copies in pictures], first)
                    for block in pending.intersection(group):
                        images = self.blocks[block]
                        local = slice(images.start - first, images.stop - first)
                        self._write(writer, spec.name, tokens[:, local], pooled[:, local], images)
                for block in sorted(pending.intersection(group)):
                    self.work.mark("blocks", block)
                    progress.advance(self.blocks[block].stop - self.blocks[block].start)

    def _extract(
        self, backbone: Backbone, spec: ModelSpec, pictures: Sequence[NDArray[np.uint8]], first: int
    ) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
        """Return tokens (layer, image, token, channel) and pooled (layer, image, channel) of a group of images."""
        tokens, pooled = [], []
        for start in range(0, len(pictures), self.batch):
            stack = torch.from_numpy(np.stack(pictures[start : start + self.batch])).permute(0, 3, 1, 2)
            features = backbone.extract(stack)
            if not bool(features.finite.all()):
                layer, image = (features.finite.logical_not().nonzero()[0]).tolist()
                raise BadInput(
                    f"features of model {spec.name}, layer {backbone.layers[layer]}, image "
                    f"{self.files[first + start + image].id} are not finite, or beyond the range of float16",
                    why="The weights may be damaged, or not belong to this architecture.",
                    do="Check --weights, or leave the layer out with --layers.",
                )
            tokens.append(features.tokens.cpu().numpy())
            pooled.append(features.pooled.cpu().numpy())
        if len(tokens) == 1:
            return tokens[0], pooled[0]
        return np.concatenate(tokens, axis=1), np.concatenate(pooled, axis=1)

    def _write(
        self,
        writer: Writer,
        model: str,
        tokens: NDArray[np.float16],
        pooled: NDArray[np.float32],
        images: slice,
    ) -> None:
        if self.params.save != "pooled":
            if self.params.sample_tokens is not None:
                chosen = writer.read(f"{model}/token", (images,))
                tokens = np.take_along_axis(tokens, chosen[None, :, :, None], axis=2)
            writer.write(f"{model}/tokens", (slice(None), images), tokens)
        if self.params.save != "tokens":
            writer.write(f"{model}/pooled", (slice(None), images), pooled)


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
