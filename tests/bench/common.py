"""What the benchmarks share: features with ViT-like statistics, and time and peak memory of whole processes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from aligncut_cli.params import RunOptions
from aligncut_cli.store.kinds.base import put_images
from aligncut_cli.store.kinds.features import TOKENS as TOKENS_ARRAY
from aligncut_cli.store.kinds.features import create_features
from aligncut_cli.store.nodes import ModelAxes
from aligncut_cli.store.provenance import Identity
from aligncut_cli.store.run import Plan, begin
from aligncut_cli.store.write import Writer, create_group

TOKENS, GRID = 197, (14, 14)
LATENT, CLUSTERS, PARTS = 64, 24, 20


class VitLikeFeatures:
    """Token features with the statistics of an aligned ViT: what one slot gives for one image.

    A token is a cluster centre (24 concepts of 20 parts each) in 64 latent dimensions whose variances fall as a
    power law, spread within the cluster; a slot has a mean of its own, turns and scales the latent space a little,
    and adds white noise in all channels. Every block depends on (seed, slot, image) only.
    """

    def __init__(self, n_slots: int, *, dim: int = 768, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(1234)
        self.dim, self.seed = dim, seed
        self.base = torch.randn(LATENT, dim, generator=rng) / dim**0.5
        self.spectrum = torch.arange(1, LATENT + 1).float() ** -0.7
        self.centres = torch.randn(CLUSTERS, LATENT, generator=rng) * self.spectrum
        self.parts = torch.randn(CLUSTERS, PARTS, LATENT, generator=rng) * self.spectrum * 0.6
        self.means = torch.randn(n_slots, dim, generator=rng) / dim**0.5
        self.scales = torch.rand(n_slots, generator=rng) * 0.8 + 0.2
        self.turns = [torch.linalg.qr(torch.randn(LATENT, LATENT, generator=rng)).Q for _ in range(n_slots // 12 + 1)]

    def block(self, slot: int, first_image: int, n_images: int) -> torch.Tensor:
        """Return (images x tokens, channel) float16."""
        n = n_images * TOKENS
        rng = torch.Generator().manual_seed((self.seed * 1_000_003 + slot) * 1_000_003 + first_image)
        cluster = torch.randint(CLUSTERS, (n,), generator=rng)
        part = torch.randint(PARTS, (n,), generator=rng)
        z = self.centres[cluster] + self.parts[cluster, part]
        z = z + 0.45 * torch.randn(n, LATENT, generator=rng) * self.spectrum
        z = 0.6 * z + 0.4 * (z @ self.turns[slot // 12])
        noise = 0.5 * torch.randn(n, self.dim, generator=rng) / self.dim**0.5
        return (z @ self.base * self.scales[slot] * 2 + self.means[slot] * 1.5 + noise).half()


def write_vit_like_store(path: Path, *, n_images: int, n_models: int, n_layers: int, dim: int = 768) -> int:
    """Write a features store of generated tokens, block by block; returns its number of nodes."""
    made = VitLikeFeatures(n_models * n_layers, dim=dim)
    names = [f"model{i}" for i in range(n_models)]
    identity = Identity(
        "extract", 1, "features", {"seed": 0, "images": n_images, "models": n_models, "layers": n_layers, "dim": dim}
    )
    with begin(identity, RunOptions(output=path)) as work:
        n_nodes = n_images * n_models * n_layers * TOKENS
        if work.complete:
            return n_nodes
        work.accept(Plan(0, n_nodes * dim * 2, phases={"create": 1}))
        root = create_group(work.staging)
        ids = np.array([f"image-{i:06d}" for i in range(n_images)], dtype=object)
        size = np.full(n_images, 224, dtype=np.int32)
        put_images(root, {"id": ids, "path": ids, "height": size, "width": size}, {"skipped": []})
        writer = Writer(work.staging)
        for m, name in enumerate(names):
            attributes = {
                "timm": "generated",
                "layers": list(range(n_layers)),
                "grid": list(GRID),
                "class_token": True,
                "image_size": [224, 224],
                "weights": {"source": "generated"},
                "n_images": n_images,
                "n_tokens": TOKENS,
            }
            axes = ModelAxes(name, tuple(range(n_layers)), n_images, TOKENS, GRID, True, attributes)
            create_features(root, axes, (TOKENS_ARRAY,), channels=dim, images_per_block=16, kept_tokens=None)
            for layer in range(n_layers):
                for start in range(0, n_images, 16):
                    count = min(16, n_images - start)
                    block = made.block(m * n_layers + layer, start, count).numpy().reshape(count, TOKENS, dim)
                    writer.write(TOKENS_ARRAY.at(name), (layer, slice(start, start + count)), block)
        work.mark("create")
        work.finish(models=names)
    return n_nodes


@dataclass(frozen=True)
class Measured:
    """Seconds and peak resident memory (bytes) of one process."""

    seconds: float
    cpu_seconds: float
    peak: int


# A child's peak memory counts that of its parent at the time of the fork, so a small process starts the command.
_LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(subprocess.Popen(sys.argv[2:]).pid, 0)
figures = [time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024]
open(sys.argv[1], "w").write(json.dumps(figures))
sys.exit(status != 0)
"""


def run_measured(command: list[str], *, folder: Path | None = None) -> Measured:
    """Run a process to its end, in a folder; raises where it fails."""
    with tempfile.NamedTemporaryFile() as file:
        launch = [sys.executable, "-S", "-E", "-c", _LAUNCHER, file.name, *command]
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        if subprocess.run(launch, stdout=subprocess.DEVNULL, env=environment, cwd=folder, check=False).returncode:
            raise SystemExit(f"{' '.join(command)} failed")
        return Measured(*json.loads(Path(file.name).read_text()))


def own_peak() -> int:
    """Return this process's peak resident memory in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def python(code: str) -> list[str]:
    """Return a command that runs Python code."""
    return [sys.executable, "-c", code]


def read_rows(path: Path) -> NDArray[np.float16]:
    """Read all tokens of a store in flat order, (nodes, channel)."""
    from aligncut_cli.store.read import open_store

    store = open_store(path)
    return np.concatenate([store.read(f"{m.name}/tokens").reshape(m.n_nodes, -1) for m in store.axes.models])


def cosine_affinity(a: torch.Tensor, b: torch.Tensor | None = None, sigma: float = 1.0) -> torch.Tensor:
    """Eq. 3 in the form that ncut-pytorch takes: exp(cos - 1)."""
    a, b = (torch.nn.functional.normalize(x, dim=-1) for x in (a, a if b is None else b))
    return torch.exp(a @ b.T - 1)
