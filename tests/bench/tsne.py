"""t-SNE engines on the same points: time, peak memory, exact KL and trustworthiness, each in a process of its own.

python -m tests.bench.tsne --points 100000 --engines fft sklearn
python -m tests.bench.tsne --points 20000 --dims 2 --engines fft openTSNE
python -m tests.bench.tsne --points 5000 --dims 2 --engines fft torchdr
python -m tests.bench.tsne --points 20000 --eigs eigs.zarr

The points are rows of 20 eigenvectors, as the stage `tsne` gets them. All engines get them standardised alike, the
same start and as many steps. Seconds and memory are of the whole process; imports alone are 2 s and 0.9 GB of it. KL
is from the final coordinates with all pairs, of the kernel that aligncut and scikit-learn share; in 3-D TorchDR has
another one, and openTSNE's FFT has no 3-D.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import trustworthiness

from aligncut_cli.maths.affinity import unit_rows
from aligncut_cli.maths.eigensolve import solve_normalized_cut
from aligncut_cli.maths.propagate import NystromExtension
from aligncut_cli.maths.tsne import _principal_start, _standardise, divergence_of, fit_tsne
from aligncut_cli.maths.tsne_affinities import find_affinities, information_of
from aligncut_cli.maths.tsne_fft import repel_exactly
from aligncut_cli.store.read import open_store
from tests.bench.common import TOKENS, VitLikeFeatures, python, run_measured

Rows = NDArray[np.float32]
SLOTS, SAMPLED, N_EIG, SEED = 36, 4000, 20, 0
JUDGED, N_NEAREST = 4000, 12


def make_points(path: Path, n_points: int) -> None:
    """Save eigenvector rows of random tokens: a sampled graph of 4,000 nodes, carried to the others (Nystrom)."""
    made = VitLikeFeatures(SLOTS)
    n_images = -(-n_points // SLOTS // TOKENS) + 1
    rows = torch.cat([made.block(slot, 0, n_images) for slot in range(SLOTS)])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
    rows = rows[order[: max(n_points, SAMPLED)]]
    sample = unit_rows(rows[:SAMPLED])
    solved = solve_normalized_cut(sample, n_eig=N_EIG, device="cpu", memory_limit=8 * 10**9, seed=SEED)
    carry = NystromExtension(
        sample, eigenvectors=solved.eigenvectors, eigenvalues=solved.eigenvalues, degrees=solved.degrees
    )
    blocks = [carry.extend(unit_rows(block)) for block in rows[:n_points].split(8192)]
    np.save(path, torch.cat(blocks).numpy())


def take_points(path: Path, n_points: int, eigs: Path) -> None:
    """Save the eigenvector rows of random nodes of an eigs store."""
    store = open_store(eigs, "eigs")
    rows = np.concatenate([store.read(f"{m.name}/eigvecs").reshape(m.n_nodes, -1) for m in store.axes.models])
    np.save(path, rows[np.random.default_rng(SEED).permutation(len(rows))[:n_points]])


def fit_aligncut(engine: str, points: Rows, *, dims: int, perplexity: float, iterations: int) -> Rows:
    fitted = fit_tsne(
        points, n_dims=dims, perplexity=perplexity, iterations=iterations, engine=engine, device="cpu", seed=SEED
    )
    return fitted.coords


def fit_opentsne(points: Rows, *, dims: int, perplexity: float, iterations: int) -> Rows:
    from openTSNE import TSNE

    rows = _standardise(points)
    early = min(250, iterations // 2)
    model = TSNE(
        n_components=dims,
        perplexity=perplexity,
        early_exaggeration_iter=early,
        n_iter=iterations - early,
        initialization=_principal_start(rows, n_dims=dims, seed=SEED),
        negative_gradient_method="fft",
        n_jobs=torch.get_num_threads(),
        random_state=SEED,
    )
    return np.asarray(model.fit(rows), dtype=np.float32)


def fit_torchdr(backend: str | None, points: Rows, *, dims: int, perplexity: float, iterations: int) -> Rows:
    from torchdr import TSNE

    rows = _standardise(points)
    model = TSNE(
        n_components=dims,
        perplexity=perplexity,
        early_exaggeration_iter=min(250, iterations // 2),
        max_iter=iterations,
        init=torch.from_numpy(_principal_start(rows, n_dims=dims, seed=SEED)),
        backend=backend,
        device="cpu",
        random_state=SEED,
    )
    return np.asarray(model.fit_transform(torch.from_numpy(rows)).detach(), dtype=np.float32)


ENGINES: dict[str, Callable[..., Rows]] = {
    **{engine: partial(fit_aligncut, engine) for engine in ("fft", "exact", "sklearn")},
    "openTSNE": fit_opentsne,
    "torchdr": partial(fit_torchdr, None),
    "torchdr-keops": partial(fit_torchdr, "keops"),
}


def fit(engine: str, points: Path, coords: Path, **settings: float) -> None:
    """Fit one engine and save the map."""
    np.save(coords, ENGINES[engine](np.load(points), **settings))


def judge(points: Path, coords: Path, *, perplexity: float) -> None:
    """Print the KL divergence of a map and the trustworthiness of 4,000 of its points."""
    rows, placed = np.load(points), np.load(coords)
    n_neighbors = min(len(rows) - 1, int(3 * perplexity + 1))
    affinities = find_affinities(torch.from_numpy(_standardise(rows)), perplexity, n_neighbors=n_neighbors)
    flat = torch.from_numpy(placed.T.copy())
    some = np.random.default_rng(1).permutation(len(rows))[:JUDGED]
    trusted = trustworthiness(rows[some], placed[some], n_neighbors=N_NEAREST)
    divergence = divergence_of(flat, affinities, repel_exactly(flat), information_of(affinities))
    print(json.dumps({"points": len(rows), "kl": divergence, "trust": float(trusted)}))


def call(function: Callable[..., None], *arguments: object, **settings: object) -> list[str]:
    """Return a command that calls a function of this file in a process of its own."""
    given = ", ".join([*map(repr, arguments), *(f"{name}={value!r}" for name, value in settings.items())])
    return python(f"from pathlib import *; from tests.bench.tsne import {function.__name__} as run; run({given})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=["fft"])
    parser.add_argument("--dims", type=int, default=3, choices=[2, 3])
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--perplexity", type=float, default=30.0)
    parser.add_argument("--eigs", type=Path, help="take the points from this eigs store")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "aligncut-bench")
    given = parser.parse_args()
    if "openTSNE" in given.engines and given.dims == 3:
        parser.error("openTSNE's FFT engine makes maps of 2 dimensions: give --dims 2")
    os.environ |= {f"{name}_NUM_THREADS": str(given.threads) for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    given.folder.mkdir(parents=True, exist_ok=True)
    points = given.folder / f"points-{given.points}.npy"
    if given.eigs:
        subprocess.run(call(take_points, points, given.points, given.eigs), check=True)
    else:
        subprocess.run(call(make_points, points, given.points), check=True)
    print("| engine | points | dims | wall s | CPU s | KL | trustworthiness | peak RAM, GB |", flush=True)
    print("|---|---|---|---|---|---|---|---|", flush=True)
    settings = {"dims": given.dims, "perplexity": given.perplexity, "iterations": given.iterations}
    for engine in given.engines:
        coords = given.folder / f"map-{given.points}-{given.dims}-{engine}.npy"
        figures = run_measured(call(fit, engine, points, coords, **settings))
        judged = subprocess.run(
            call(judge, points, coords, perplexity=given.perplexity), check=True, stdout=subprocess.PIPE, text=True
        )
        quality = json.loads(judged.stdout)
        print(
            f"| {engine} | {quality['points']:,} | {given.dims} | {figures.seconds:.1f} | {figures.cpu_seconds:.1f}"
            f" | {quality['kl']:.4f} | {quality['trust']:.4f} | {figures.peak / 1e9:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
