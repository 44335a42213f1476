"""`aligncut eigs` as a whole process: time, peak memory and quality, beside ncut-pytorch on the same features.

python -m tests.bench.eigs --nodes 500000 --against ncut-pytorch
python -m tests.bench.eigs --nodes 7092000 --n-sample 50000
python -m tests.bench.eigs --quality 20000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from aligncut_cli.maths.affinity import unit_rows
from aligncut_cli.store.read import open_store
from tests.bench.common import TOKENS, Measured, python, read_rows, run_measured, write_vit_like_store
from tests.quality import ExactGraph

SLOTS = 36


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
    parser.add_argument("--nodes", type=int, help="nodes of the graph, rounded to whole images of 36 slots")
    parser.add_argument("--quality", type=int, help="judge methods on a graph of this many nodes, solved exactly")
    parser.add_argument("--n-sample", type=int, default=50_000)
    parser.add_argument("--n-eig", type=int, default=20)
    parser.add_argument("--extend", choices=["knn", "nystrom"], default="knn")
    parser.add_argument("--search", default="auto")
    parser.add_argument("--against", choices=["ncut-pytorch"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "aligncut-bench")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    nodes = given.nodes or given.quality
    n_images = max(1, round(nodes / TOKENS / SLOTS))
    features = given.folder / f"features-{n_images}.zarr"
    made = write_vit_like_store(features, n_images=n_images, n_models=3, n_layers=12)
    output = given.folder / "eigs.zarr"
    print(f"{made:,} nodes of {SLOTS} slots x {n_images} images, 768 channels, C = {given.n_eig}")

    def judge(carried: np.ndarray) -> str:
        if exact is None:
            return ""
        trace, cosine = exact.judge(carried)
        return f"trace share {trace:.4f}  mean squared cosine {cosine:.4f}"

    exact = None
    if given.quality:
        unit = unit_rows(torch.from_numpy(read_rows(features)))
        exact = ExactGraph(unit, n_eig=given.n_eig, memory_limit=8 * 10**9)
        for extend, m, search in (
            ("nystrom", 1000, "auto"),
            ("nystrom", 2000, "auto"),
            ("nystrom", 4000, "auto"),
            ("knn", made // 4, "flat"),
            ("knn", made // 4, "ivf"),
        ):
            options = ["--n-sample", m, "--extend", extend, "--search", search, "--n-eig", given.n_eig]
            figures = run_ours(features, output, list(map(str, options)))
            show(f"{extend} m={m} {search}", figures, judge(carried_rows(output)))
    else:
        options = ["--n-sample", given.n_sample, "--extend", given.extend, "--search", given.search]
        figures = run_ours(features, output, [*map(str, options), "--n-eig", str(given.n_eig)])
        show(f"aligncut {given.extend} m={given.n_sample}", figures)
    if given.against:
        rows = given.folder / "ncut.npy"
        figures = run_ncut(features, rows, given.n_eig)
        show("ncut-pytorch", figures, judge(np.load(rows)))


if __name__ == "__main__":
    main()
