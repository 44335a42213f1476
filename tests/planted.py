"""Feature stores and responses with a truth that is known, written without running any model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

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


def write_features(
    path: Path,
    tokens: Mapping[str, NDArray[np.floating]],
    *,
    grid: tuple[int, int],
    grids: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    without_class: Collection[str] = (),
    kept: Mapping[str, NDArray[np.int32]] = MappingProxyType({}),
    images_per_block: int = 16,
) -> Path:
    """Write a features store of these (layer, image, token, channel) arrays, class token first.

    grids         : of the models that have another one
    without_class : models whose first token is a patch already
    kept          : (image, k) of a model of whose tokens only these are stored; the pooled means know all
    """
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
            chosen = kept.get(name)
            stored = values if chosen is None else np.take_along_axis(values, chosen[None, :, :, None], axis=2)
            own_grid, has_class = grids.get(name, grid), name not in without_class
            layers, _, n_tokens, width = stored.shape
            attributes = {
                "timm": "planted",
                "layers": list(range(layers)),
                "grid": list(own_grid),
                "class_token": has_class,
                "image_size": [64, 64],
                "weights": {"source": "planted"},
                "n_images": n_images,
                "n_tokens": n_tokens,
            }
            axes = ModelAxes(name, tuple(range(layers)), n_images, n_tokens, own_grid, has_class, attributes)
            arrays = (TOKENS, POOLED)
            create_features(root, axes, arrays, channels=width, images_per_block=images_per_block, kept_tokens=chosen)
            writer.write(TOKENS.at(name), ..., stored.astype(np.float16))
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
