"""The computation of `extract`: check the images, run the models over blocks of them, write tokens and means."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.errors import BadInput, UsageError
from aligncut_cli.images.band import parse_band
from aligncut_cli.images.decode import Copy, Pixels
from aligncut_cli.images.files import ImageFile
from aligncut_cli.images.workers import ImageDecoder, check_images
from aligncut_cli.machine import cpu_count
from aligncut_cli.maths.sampling import node_keys, stable_hash
from aligncut_cli.models.backbone import Backbone, load_backbone
from aligncut_cli.models.precision import has_bf16_instructions, resolve_precision
from aligncut_cli.models.registry import ModelSpec
from aligncut_cli.params import ExtractParams
from aligncut_cli.stages.device import settle_device
from aligncut_cli.stages.extract.batches import Batch, copy_for, describe_preparation
from aligncut_cli.stages.extract.layout import Layout, ModelPart, describe_models
from aligncut_cli.store.kinds.base import put_images
from aligncut_cli.store.kinds.features import POOLED, TOKEN, TOKENS, create_features
from aligncut_cli.store.nodes import ModelAxes
from aligncut_cli.store.phases import Phase, single_step
from aligncut_cli.store.run import Outcome, Plan, Work, write_json
from aligncut_cli.store.validate import read_json
from aligncut_cli.store.write import Writer, create_group

CPU_BATCH, CUDA_BATCH = 16, 64
PROCESS_BYTES = 700_000_000  # python with torch and timm loaded
CHECKED = "images.json"
"""What looking at all images has found, kept beside the unfinished store."""
ARRAYS = {"tokens": (TOKENS,), "pooled": (POOLED,), "both": (TOKENS, POOLED)}


class ExtractStage:
    """One run of the stage: the models, the images that can be decoded, and their blocks."""

    def __init__(
        self,
        work: Work,
        files: Sequence[ImageFile],
        specs: Sequence[ModelSpec],
        params: ExtractParams,
    ) -> None:
        self.work, self.params, self.console, options = work, params, work.console, work.options
        self.arrays = ARRAYS[params.save]
        self.device = settle_device(work)
        self.precision = work.settle("precision", lambda: resolve_precision(params.precision, self.device))
        if self.precision == "bf16" and self.device.type == "cpu":
            self._look_for_bf16()
        self.batch = options.batch_size or (CUDA_BATCH if self.device.type == "cuda" else CPU_BATCH)
        self.workers = self._count_decoders()
        models = describe_models(specs, params)
        self.files, self.sizes, self.skipped = work.settle("images", lambda: self._check_images(files))
        self.layout = Layout(models, len(self.files), images_per_batch=self.batch)
        self.writer = Writer(work.staging)

    def _look_for_bf16(self) -> None:
        """Warn where bfloat16 gains nothing; refuse a worker whose processor is of another kind, as sums differ."""
        there = has_bf16_instructions()
        if self.work.settle("bf16 instructions", lambda: there) != there:
            raise UsageError(
                "--precision bf16: this worker's processor and that which began the run do not both have instructions "
                "for bfloat16, so that features would differ",
                do="Use workers with processors of one kind, or leave --precision out.",
            )
        if not there:
            self.console.warn(
                "--precision bf16: this processor has no instructions for bfloat16 (AVX512-BF16 or AMX), and computes "
                "it more slowly than float32. Leave --precision out, unless the features must be those of another run."
            )

    def _count_decoders(self) -> int:
        """Return how many processes decode images; a worker decodes by itself: it may have no processes."""
        if not self.work.is_mine:
            return 0
        given = self.work.options.workers
        return given if given is not None else max(1, min(8, cpu_count() - 1))

    def _check_images(
        self, files: Sequence[ImageFile]
    ) -> tuple[list[ImageFile], list[tuple[int, int]], list[tuple[ImageFile, str]]]:
        """Decode every image once, coarsely, before hours are spent; returns good images, their sizes, and bad ones.

        A run that goes on takes over what it had found: its digest says that the files are the same to the byte.
        """
        known = self._recall(files)
        if known is not None:
            return known
        with self.console.progress("check images", len(files), unit="images") as progress:
            good, sizes, bad = check_images(
                files,
                workers=self.workers,
                skip_bad=self.params.skip_bad,
                progress=progress.reach,
                note=self.console.note,
            )
        for _, reason in bad:
            self.console.warn(f"left out: {reason}")
        return good, sizes, bad

    def _recall(
        self, files: Sequence[ImageFile]
    ) -> tuple[list[ImageFile], list[tuple[int, int]], list[tuple[ImageFile, str]]] | None:
        if not self.work.goes_on:
            return None
        try:
            found = read_json(self.work.wip / CHECKED)
            reasons = dict(found["skipped"])
            sizes = [(int(height), int(width)) for height, width in found["sizes"]]
        except (BadInput, OSError, KeyError, TypeError, ValueError):
            return None
        good = [file for file in files if file.id not in reasons]
        bad = [(file, reasons[file.id]) for file in files if file.id in reasons]
        return (good, sizes, bad) if len(good) == len(sizes) else None

    def plan(self) -> Plan:
        """Return the bytes of a batch with all weights, and those of the store."""
        layout = self.layout
        return Plan(
            memory=PROCESS_BYTES + layout.estimate_memory(),
            disk=layout.estimate_disk(save=self.params.save),
            notes={"images": layout.n_images, "nodes": layout.n_nodes},
        )

    def phases(self) -> Sequence[Phase[Any]]:
        """Return the phases in order."""
        blocks: Phase[slice] = Phase(
            "blocks",
            self.layout.blocks,
            self._write_block,
            feed=self._decode,
            unit="images",
            size=lambda images: images.stop - images.start,
            label="extract",
            parallel=True,
            together=self.layout.blocks_per_batch,
        )
        return [single_step("create", self._create), blocks]

    @cached_property
    def backbones(self) -> dict[str, Backbone]:
        """Return the models by name, with their weights; loaded where a block or the store's attributes need them."""
        return {model.name: self._load(model) for model in self.layout.models}

    def _load(self, model: ModelPart) -> Backbone:
        backbone = load_backbone(
            model.spec,
            layers=model.layers,
            seed=self.params.seed,
            device=self.device,
            announce=self.console.note,
            site=self.params.site,
            precision=self.precision,
        )
        self.console.note(f"{model.name}: {describe_preparation(backbone.info)}")
        if backbone.weights_record["source"] == "random":
            self.console.warn(f"{model.name} has random weights: it has learned nothing. The store records this.")
        return backbone

    # phases

    def _create(self) -> None:
        """Create the arrays of a features store, with the images' table."""
        root = create_group(self.work.staging)
        bad = [[file.id, reason] for file, reason in self.skipped]
        write_json(self.work.wip / CHECKED, {"sizes": self.sizes, "skipped": bad})
        heights, widths = zip(*self.sizes, strict=True)
        images = {
            "id": np.array([file.id for file in self.files], dtype=object),
            "path": np.array([str(file.path.resolve()) for file in self.files], dtype=object),
            "height": np.array(heights, dtype=np.int32),
            "width": np.array(widths, dtype=np.int32),
        }
        skipped = [{"path": str(file.path), "reason": reason} for file, reason in self.skipped]
        put_images(root, images, {"skipped": skipped})
        for model in self.layout.models:
            create_features(
                root,
                self._axes_of(model),
                self.arrays,
                channels=model.info.channels,
                images_per_block=self.layout.images_per_block,
                kept_tokens=None if self.params.sample_tokens is None else self._sample_tokens(model),
            )

    def _axes_of(self, model: ModelPart) -> ModelAxes:
        info, n_images = self.backbones[model.name].info, self.layout.n_images
        used = {"mean": list(info.mean), "std": list(info.std), "interpolation": info.interpolation}
        attributes = {
            "timm": model.spec.timm_name,
            "layers": list(model.layers),
            "grid": list(info.grid),
            "class_token": info.class_token,
            "image_size": list(info.image_size),
            "site": self.params.site,
            "precision": self.precision,
            **used,
            "weights": dict(self.backbones[model.name].weights_record),
            "n_images": n_images,
            "n_tokens": model.n_tokens,
        }
        return ModelAxes(model.name, model.layers, n_images, model.n_tokens, info.grid, info.class_token, attributes)

    def _sample_tokens(self, model: ModelPart) -> NDArray[np.int32]:
        """Choose which tokens are kept of each image, (image, token), increasing; seed and image id decide.

        Models with as many tokens keep the same ones, so that slots can be compared token by token.
        """
        images = [stable_hash(self.params.seed, "image", file.id) for file in self.files]
        salt = stable_hash(self.params.seed, "tokens")
        keys = node_keys(np.array(images, dtype=np.uint64), salt, model.info.n_tokens)
        return np.sort(np.argsort(keys, axis=1, kind="stable")[:, : model.n_tokens], axis=1).astype(np.int32)

    @contextlib.contextmanager
    def _decode(self, pending: Sequence[int]) -> Iterator[Iterator[Batch]]:
        """Give each of these blocks its batch; images are decoded ahead in worker processes."""
        batches = [number for number, _ in itertools.groupby(pending, self.layout.batch_of)]
        wanted = [file for number in batches for file in self.files[self.layout.batch_images(number)]]
        kinds = sorted({copy_for(backbone.info) for backbone in self.backbones.values()})
        band = None if self.params.band is None else parse_band(self.params.band)
        with ImageDecoder(wanted, kinds, workers=self.workers, band=band) as decoder:
            yield self._batches(pending, kinds, iter(decoder))

    def _batches(
        self, pending: Sequence[int], kinds: Sequence[Copy], decoded: Iterator[list[Pixels]]
    ) -> Iterator[Batch]:
        for number, blocks in itertools.groupby(pending, self.layout.batch_of):
            images = self.layout.batch_images(number)
            ids = [file.id for file in self.files[images]]
            copies = list(itertools.islice(decoded, len(ids)))
            pictures = {kind: [of_image[at] for of_image in copies] for at, kind in enumerate(kinds)}
            batch = Batch(images, ids, pictures, self.backbones, at_once=self.batch)
            for _ in blocks:
                yield batch

    def _write_block(self, index: int, images: slice, batch: Batch) -> None:
        """Write tokens and means of a block; its batch is computed with the first of its blocks."""
        for model in self.layout.models:
            tokens, means = batch.select(model.name, images)
            if TOKENS in self.arrays:
                if self.params.sample_tokens is not None:
                    chosen = self.writer.read(TOKEN.at(model.name), (images,))
                    tokens = np.take_along_axis(tokens, chosen[None, :, :, None], axis=2)
                self.writer.write(TOKENS.at(model.name), (slice(None), images), tokens)
            if POOLED in self.arrays:
                self.writer.write(POOLED.at(model.name), (slice(None), images), means)

    # ending

    def finish(self) -> Outcome:
        """Give the store its name."""
        layout = self.layout
        names = [model.name for model in layout.models]
        return self.work.finish(
            models=names,
            summary={"images": layout.n_images, "skipped": len(self.skipped), "nodes": layout.n_nodes},
            said=[f"{layout.n_images:,} images, {layout.n_nodes:,} nodes of {', '.join(names)}"],
        )
