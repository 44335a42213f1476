"""Neighbour searches: queries per second, recall, and what counts, the eigenvectors that they carry.

python -m tests.bench.search --n-sample 50000

Sampled nodes and queries are generated tokens of 36 slots; the queries come a block of one slot at a time, as in the
stage. `agreement` is the mean squared cosine between the eigenvectors carried by a search and those by exact search;
`off` is the share of nodes whose carried row differs from that of exact search by 10% of its length or more, among the
queries, and among as many sampled nodes, searched for themselves.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from aligncut_cli.maths.affinity import affinity_from_cosine_, unit_rows
from aligncut_cli.maths.eigensolve import solve_normalized_cut
from aligncut_cli.maths.neighbours import build_search
from aligncut_cli.maths.propagate import propagate_eigenvectors
from tests.bench.common import VitLikeFeatures

SLOTS, BLOCK_IMAGES, N_EIG = 36, 32, 20
Search = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]

# FAISS index factories, and how to set what they trade speed for recall by.
FACTORIES = {
    "PCA64,IVF512,Flat": {"nprobe": 8},
    "PCA64,IVF512,Flat nprobe 32": {"nprobe": 32},
    "IVF512,Flat": {"nprobe": 8},
    "IVF512,SQ8": {"nprobe": 8},
    "IVF512,SQfp16": {"nprobe": 8},
    "OPQ64_128,IVF512,PQ64x4fs,RFlat": {"nprobe": 8, "k_factor_rf": 4},
    "HNSW32,Flat": {"efSearch": 128},
}


def faiss_search(factory: str, settings: dict[str, int], sample: torch.Tensor) -> Search:
    import faiss

    index = faiss.index_factory(sample.shape[1], factory.split()[0], faiss.METRIC_INNER_PRODUCT)
    rows = sample.numpy()
    index.train(rows)
    index.add(rows)
    for name, value in settings.items():
        faiss.ParameterSpace().set_index_parameter(index, name, value)

    def search(queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        score, found = index.search(queries.numpy(), k)
        # Lists that are too short leave places empty: the first neighbour again, as good as none.
        missing = found < 0
        return (
            torch.from_numpy(np.where(missing, score[:, :1], score)).clamp(-1, 1),
            torch.from_numpy(np.where(missing, found[:, :1], found)),
        )

    return search


def share_off(carried: torch.Tensor, exact: torch.Tensor) -> float:
    """Share of rows that differ by a tenth of the exact row's length or more: (n, C), (n, C)."""
    return float(((carried - exact).norm(dim=1) >= 0.1 * exact.norm(dim=1)).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-sample", type=int, default=50_000)
    parser.add_argument("--neighbors", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=9, help="blocks of queries, of 6,304 nodes each")
    parser.add_argument("--factories", action="store_true", help="measure FAISS's other indices too")
    given = parser.parse_args()
    m, k = given.n_sample, given.neighbors
    made = VitLikeFeatures(SLOTS)
    rows = torch.cat([made.block(slot, 0, -(-m // SLOTS // 197) + 1) for slot in range(SLOTS)])
    sample = unit_rows(rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:m]])
    step = SLOTS // given.blocks
    blocks = [unit_rows(made.block(slot * step, 500, BLOCK_IMAGES)) for slot in range(given.blocks)]
    solution = solve_normalized_cut(sample, n_eig=N_EIG, device="cpu", memory_limit=12 * 10**9, seed=0)
    eigenvectors = torch.from_numpy(solution.eigenvectors)
    print(f"{m:,} sampled nodes, {sum(map(len, blocks)):,} queries, K = {k}")
    columns = ["search", "build, s", "queries per second", "recall", "agreement", "off", "off, sampled"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    exact_found: list[torch.Tensor] = []
    exact_carried: list[torch.Tensor] = []
    own = sample[: sum(map(len, blocks))]

    def carry(answers: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        return torch.cat([propagate_eigenvectors(affinity_from_cosine_(s), i, eigenvectors) for s, i in answers])

    def measure(name: str, build: Callable[[], Search]) -> None:
        nonlocal exact_found, exact_carried
        start = time.perf_counter()
        search = build()
        search(blocks[0][:64], k)
        built = time.perf_counter() - start
        start = time.perf_counter()
        answers = [search(block, k) for block in blocks]
        seconds = time.perf_counter() - start
        carried = [carry(answers), carry([search(part, k) for part in own.split(len(blocks[0]))])]
        found = [index for _, index in answers]
        if not exact_found:
            exact_found, exact_carried = found, carried
        hits = [
            np.mean([len(np.intersect1d(a, b)) for a, b in zip(mine[:200], theirs[:200], strict=True)]) / k
            for mine, theirs in zip(found, exact_found, strict=True)
        ]
        spans = [np.linalg.qr(rows.double().numpy())[0] for rows in (carried[0], exact_carried[0])]
        agreement = np.linalg.norm(spans[0].T @ spans[1]) ** 2 / N_EIG
        off = " | ".join(f"{share_off(a, b):.4f}" for a, b in zip(carried, exact_carried, strict=True))
        rate = sum(map(len, blocks)) / seconds
        print(f"| {name} | {built:.1f} | {rate:,.0f} | {np.mean(hits):.3f} | {agreement:.4f} | {off} |", flush=True)

    for method in ("flat", "torch", "ivf"):
        search = {"flat": "exact, FAISS flat", "torch": "exact, torch tiles", "ivf": "`ivf`, cells"}[method]
        measure(search, lambda m=method: build_search(sample, method=m, metric="cosine", seed=0, device="cpu").search)
    for factory, settings in FACTORIES.items() if given.factories else ():
        chosen = ", ".join(f"{name} {value}" for name, value in settings.items())
        measure(f"FAISS {factory.split()[0]}, {chosen}", lambda f=factory, s=settings: faiss_search(f, s, sample))


if __name__ == "__main__":
    main()
