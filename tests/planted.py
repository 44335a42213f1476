"""Feature stores and responses with a truth that is known, written without running any model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.digests import digest_of
from aligncut_cli.params import RunOptions
from aligncut_cli.store.kinds.base import put_images
from aligncut_cli.store.kinds.features import POOLED, TOKENS, create_features
from aligncut_cli.store.nodes import ModelAxes
from aligncut_cli.store.provenance import Identity, InputRecord
from aligncut_cli.store.run import Plan, begin
from aligncut_cli.store.write import Writer, create_group

CEILING = 0.8


def write_features(path: Path, tokens: dict[str, NDArray[np.floating]], *, grid: tuple[int, int]) -> Path:
    """Write a features store of these (layer, image, token, channel) arrays, class token first."""
    first = next(iter(tokens.values()))
    content = digest_of([[name, values.astype(np.float16).tobytes().hex()[:64]] for name, values in tokens.items()])
    identity = Identity("extract", 1, "features", {"seed": 0}, [InputRecord("planted", "images", content)])
    n_images = first.shape[1]
    with begin(identity, RunOptions(output=path)) as work:
        work.accept(Plan(0, 0, phases={"create": 1}))
        root = create_group(work.staging)
        names = np.array([f"image-{i:04d}" for i in range(n_images)], dtype=object)
        sizes = np.full(n_images, 64, dtype=np.int32)
        put_images(root, {"id": names, "path": names, "height": sizes, "width": sizes}, {"skipped": []})
        writer = Writer(work.staging)
        for name, values in tokens.items():
            layers, _, n_tokens, width = values.shape
            attributes = {
                "timm": "planted",
                "layers": list(range(layers)),
                "grid": list(grid),
                "class_token": True,
                "image_size": [64, 64],
                "weights": {"source": "planted"},
                "n_images": n_images,
                "n_tokens": n_tokens,
            }
            axes = ModelAxes(name, tuple(range(layers)), n_images, n_tokens, grid, True, attributes)
            arrays = (TOKENS, POOLED)
            create_features(root, axes, arrays, channels=width, images_per_block=16, kept_tokens=None)
            writer.write(TOKENS.at(name), ..., values.astype(np.float16))
            writer.write(POOLED.at(name), ..., values.mean(axis=2).astype(np.float32))
        work.mark("create")
        return work.finish(models=list(tokens)).path


def plant_latent(n_images: int = 400, *, seed: int = 0) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float32]]:
    """Slots that are random maps of one latent space, and responses linear in it with noise of known ceiling."""
    rng = np.random.default_rng(seed)
    centres, labels = rng.standard_normal((5, 10)) * 1.5, rng.integers(5, size=(n_images, 5))
    latent = centres[labels] + 0.7 * rng.standard_normal((n_images, 5, 10))
    latent -= latent.mean(axis=(0, 1))
    tokens = {
        name: np.stack([latent @ rng.standard_normal((10, width)) + 2 * rng.standard_normal(width) for _ in range(2)])
        for name, width in (("wide", 20), ("slim", 14))
    }
    signal = latent.mean(axis=1) @ rng.standard_normal((10, 40))
    noise = rng.standard_normal(signal.shape) * np.sqrt((1 - CEILING) / CEILING)
    return tokens, (3 * (signal / signal.std(axis=0) + noise) + 10).astype(np.float32)
