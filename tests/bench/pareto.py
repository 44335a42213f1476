"""Which method to carry eigenvectors by: time against the share of the exact trace, for several m, K and methods.

python -m tests.bench.pareto --nodes 50000 --plot examples/pareto.png
python -m tests.bench.pareto --store features.zarr --against ncut-pytorch
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray

from aligncut_cli.maths.affinity import affinity_from_cosine_, unit_rows
from aligncut_cli.maths.eigensolve import solve_normalized_cut
from aligncut_cli.maths.neighbours import build_search, choose_search
from aligncut_cli.maths.propagate import NystromExtension, propagate_eigenvectors
from aligncut_cli.stages.eigs.carry import NYSTROM_TOLERANCE
from tests.bench.common import TOKENS, VitLikeFeatures, cosine_affinity, read_rows
from tests.quality import ExactGraph

SLOTS, MEMORY = 36, 12 * 10**9
NYSTROM_M = (250, 500, 1000, 2000, 4000, 8000)
KNN_M = (1000, 2500, 5000, 10_000, 20_000)
KNN_K = (10, 100)
BLOCK = 6304


def make_rows(n_nodes: int) -> torch.Tensor:
    """Return generated tokens of 36 slots, (n, channel) float16."""
    made = VitLikeFeatures(SLOTS)
    n_images = max(1, round(n_nodes / TOKENS / SLOTS))
    return torch.cat([made.block(slot, 0, n_images) for slot in range(SLOTS)])


def carry(
    rows: torch.Tensor,
    sample: torch.Tensor,
    n_eig: int,
    prepare: Callable[..., Callable[[torch.Tensor], torch.Tensor]],
) -> tuple[float, NDArray[np.float32]]:
    """Solve on the sample and carry to every row, block by block, as the stage does; returns seconds and rows."""
    start = time.perf_counter()
    unit = unit_rows(rows[sample])
    solution = solve_normalized_cut(unit, n_eig=n_eig, device="cpu", memory_limit=MEMORY, seed=0)
    extend = prepare(unit, solution)
    carried = torch.cat([extend(unit_rows(block)) for block in rows.split(BLOCK)])
    return time.perf_counter() - start, carried.numpy()


def by_nystrom(unit, solution):
    return NystromExtension(
        unit,
        eigenvectors=solution.eigenvectors,
        eigenvalues=solution.eigenvalues,
        degrees=solution.degrees,
        tolerance=NYSTROM_TOLERANCE,
    ).extend


def by_neighbours(n_nodes: int, k: int):
    def prepare(unit, solution):
        method = choose_search(method="auto", n_queries=n_nodes, n_sample=len(unit), dim=unit.shape[1], device="cpu")
        search = build_search(unit, method=method, metric="cosine", seed=0, device="cpu")
        eigenvectors = torch.from_numpy(solution.eigenvectors)

        def extend(queries):
            cosine, neighbours = search.search(queries, k)
            return propagate_eigenvectors(affinity_from_cosine_(cosine), neighbours, eigenvectors)

        return extend

    return prepare


def by_ncut_pytorch(rows: torch.Tensor, n_eig: int) -> tuple[float, NDArray[np.float32]]:
    from ncut_pytorch import Ncut

    start = time.perf_counter()
    torch.manual_seed(0)
    found = Ncut(n_eig=n_eig, sigma=1.0, affinity_fn=cosine_affinity, device="cpu").fit_transform(rows.float())
    return time.perf_counter() - start, found.numpy()


def draw(path: Path, points: list[tuple[str, str, float, float]], title: str) -> None:
    """Draw time against what is missing of the exact trace, one line per method."""
    figure, axes = plt.subplots(figsize=(7.5, 4.6), dpi=120, layout="constrained")
    styles = {"nystrom": ("o-", "tab:blue"), "ncut-pytorch": ("D", "tab:red")}
    shades = iter(("tab:green", "tab:olive", "tab:cyan"))
    for method in dict.fromkeys(point[0] for point in points):
        own = [point for point in points if point[0] == method]
        marker, colour = styles.get(method) or ("s-", next(shades))
        axes.plot([p[2] for p in own], [1 - p[3] for p in own], marker, color=colour, label=method)
        for _, label, seconds, share in own:
            place = (0, 7) if marker == "s-" else (6, 4)
            axes.annotate(label, (seconds, 1 - share), textcoords="offset points", xytext=place, fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="seconds: solve on the sample, carry to every node", title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("share of the exact trace that is missed")
    axes.margins(x=0.08)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=50_000, help="nodes of a generated graph; it is solved exactly")
    parser.add_argument("--store", type=Path, help="a features store to take instead")
    parser.add_argument("--n-eig", type=int, default=20)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--against", choices=["ncut-pytorch"])
    given = parser.parse_args()
    rows = make_rows(given.nodes) if given.store is None else torch.from_numpy(read_rows(given.store))
    n = len(rows)
    unit = unit_rows(rows)
    start = time.perf_counter()
    exact = ExactGraph(unit, n_eig=given.n_eig, memory_limit=MEMORY)
    print(f"{n:,} nodes, C = {given.n_eig}; solved exactly in {time.perf_counter() - start:.1f} s")
    print("| method | m | seconds | share of the exact trace | mean squared cosine |\n|---|---|---|---|---|")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    points = []

    def judge(method: str, m: int, seconds: float, carried: NDArray[np.float32]) -> None:
        share, cosine = exact.judge(carried).values()
        points.append((method, f"{m:,}" if m else "", seconds, share))
        print(f"| {method} | {m:,} | {seconds:.2f} | {share:.4f} | {cosine:.3f} |", flush=True)

    carry(rows, order[:1000], given.n_eig, by_nystrom)  # what is made once, such as oneDNN's kernels, is not counted
    for m in NYSTROM_M:
        judge("nystrom", m, *carry(rows, order[:m].sort().values, given.n_eig, by_nystrom))
    for k in KNN_K:
        for m in KNN_M:
            judge(f"knn, K = {k}", m, *carry(rows, order[:m].sort().values, given.n_eig, by_neighbours(n, k)))
    if given.against:
        judge(given.against, 0, *by_ncut_pytorch(rows, given.n_eig))
    if given.plot:
        draw(given.plot, points, f"{n:,} nodes, {given.n_eig} eigenvectors (numbers: nodes sampled)")


if __name__ == "__main__":
    main()
