"""`aligncut eigs` as a whole process: time, peak memory and quality, beside ncut-pytorch on the same features.

python -m tests.bench.eigs --nodes 500000 --against ncut-pytorch
python -m tests.bench.eigs --nodes 7092000 --n-sample 50000
python -m tests.bench.eigs --quality 20000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from aligncut_cli.maths.affinity import unit_rows
from aligncut_cli.store.read import open_store
from tests.bench.common import TOKENS, Measured, python, read_rows, run_measured, write_vit_like_store
from tests.quality import ExactGraph, SampledGraph

SLOTS, ROWS_JUDGED = 36, 2000


def show(label: str, figures: Measured, quality: str = "") -> None:
    print(
        f"{label:<44} {figures.seconds:8.1f} s  {figures.cpu_seconds:8.1f} CPU s  peak {figures.peak / 1e9:5.2f} GB"
        f"  {quality}",
        flush=True,
    )


def run_ours(features: Path, output: Path, options: list[str]) -> Measured:
    command = [sys.executable, "-m", "aligncut_cli", "eigs", str(features), "-o", str(output), "-q", "--overwrite"]
    return run_measured([*command, *options])


def run_ncut(features: Path, output: Path, n_eig: int) -> Measured:
    """ncut-pytorch in a process of its own, with the same affinity exp(cos - 1); reading the store is part of both."""
    code = f"""
import numpy as np, torch
from pathlib import Path
from ncut_pytorch import Ncut
from tests.bench.common import cosine_affinity, read_rows
rows = torch.from_numpy(read_rows(Path({str(features)!r}))).float()
cut = Ncut(n_eig={n_eig}, sigma=1.0, affinity_fn=cosine_affinity, device="cpu")
np.save({str(output)!r}, cut.fit_transform(rows).numpy())
"""
    return run_measured(python(code))


def carried_rows(path: Path) -> np.ndarray:
    store = open_store(path)
    return np.concatenate([store.read(f"{m.name}/eigvecs").reshape(m.n_nodes, -1) for m in store.axes.models])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--nodes", type=int, help="nodes of the graph, rounded to whole images of 36 slots")
    size.add_argument("--quality", type=int, help="judge methods on a graph of this many nodes, solved exactly")
    parser.add_argument("--n-sample", type=int, help="with --nodes; otherwise 50000, or 2000 and 4000 beside a peer")
    parser.add_argument("--n-eig", type=int, default=20)
    parser.add_argument("--extend", choices=["knn", "nystrom"], help="with --nodes; otherwise knn, or nystrom")
    parser.add_argument("--search", default="auto")
    parser.add_argument("--against", choices=["ncut-pytorch"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "aligncut-bench")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    n_images = max(1, round((given.nodes or given.quality) / TOKENS / SLOTS))
    features = given.folder / f"features-{n_images}.zarr"
    made = write_vit_like_store(features, n_images=n_images, n_models=3, n_layers=12)
    output = given.folder / "eigs.zarr"
    print(f"{made:,} nodes of {SLOTS} slots x {n_images} images, 768 channels, C = {given.n_eig}")

    if given.quality:
        methods = [("nystrom", m, "auto") for m in (1000, 2000, 4000)]
        methods += [("knn", made // 4, search) for search in ("flat", "ivf")]
        unit = unit_rows(torch.from_numpy(read_rows(features)))
        judge = ExactGraph(unit, n_eig=given.n_eig, memory_limit=8 * 10**9).judge
    else:
        extend = given.extend or ("nystrom" if given.against else "knn")
        sizes = [given.n_sample] if given.n_sample else [2000, 4000] if given.against else [50_000]
        methods = [(extend, m, given.search) for m in sizes]
        # Only beside a peer: it reads all nodes into memory.
        judge = SampledGraph(torch.from_numpy(read_rows(features)), n_rows=ROWS_JUDGED).judge if given.against else None

    def describe(carried: Callable[[], np.ndarray]) -> str:
        return "" if judge is None else ", ".join(f"{name} {value:.4f}" for name, value in judge(carried()).items())

    for extend, m, search in methods:
        options = ["--n-sample", m, "--extend", extend, "--search", search, "--n-eig", given.n_eig]
        figures = run_ours(features, output, list(map(str, options)))
        show(f"aligncut {extend} m={m} {search}", figures, describe(lambda: carried_rows(output)))
    if given.against:
        rows = given.folder / "ncut.npy"
        theirs = run_ncut(features, rows, given.n_eig)
        show("ncut-pytorch", theirs, describe(lambda: np.load(rows)))
        print(f"the last of ours takes {figures.seconds / theirs.seconds:.2f} of its time")


if __name__ == "__main__":
    main()
