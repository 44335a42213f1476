"""The sampled eigenproblem against scikit-learn's SpectralEmbedding on the same affinity, and its growth with m.

python -m tests.bench.solve --nodes 3000 5000 10000
python -m tests.bench.solve --nodes 50000 --alone
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from sklearn.manifold import SpectralEmbedding

from aligncut_cli.maths.affinity import affinity, unit_rows
from aligncut_cli.maths.eigensolve import solve_normalized_cut
from tests.bench.common import VitLikeFeatures

LAPACK_UP_TO = 5000


def angle_to_lapack(found: NDArray[np.floating], graph: NDArray[np.float64]) -> float:
    """Largest principal angle between eigenvectors found and LAPACK's of the normalized graph, in radians."""
    root = np.sqrt(graph.sum(axis=1))
    m, n_eig = found.shape
    exact = scipy.linalg.eigh(graph / root[:, None] / root, subset_by_index=[m - n_eig, m - 1])[1]
    return float(scipy.linalg.subspace_angles(found.astype(np.float64), exact).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[3000, 5000, 10_000])
    parser.add_argument("--n-eig", type=int, default=20)
    parser.add_argument("--alone", action="store_true", help="leave scikit-learn out")
    given = parser.parse_args()
    made = VitLikeFeatures(36)
    for n in given.nodes:
        rows = torch.cat([made.block(slot, 0, -(-n // 36 // 197) + 1) for slot in range(36)])
        unit = unit_rows(rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:n]])
        start = time.perf_counter()
        ours = solve_normalized_cut(unit, n_eig=given.n_eig, device="cpu", memory_limit=16 * 10**9, seed=0)
        seconds = time.perf_counter() - start
        print(
            f"m={n:>6}: affinity and {ours.iterations} products {seconds:7.2f} s, residual {ours.residuals.max():.1e}, "
            f"{ours.storage}",
            flush=True,
        )
        if given.alone:
            continue
        start = time.perf_counter()
        tensor = affinity(unit, unit)
        built = time.perf_counter() - start
        graph = tensor.double().numpy()
        # scikit-learn computes the eigenvectors of the normalized Laplacian, divided by the root of the degree; it
        # leaves the diagonal out of the graph, so its solution is close to that of Eq. 3 only for many nodes.
        start = time.perf_counter()
        theirs = SpectralEmbedding(given.n_eig - 1, affinity="precomputed", random_state=0).fit_transform(graph)
        other = time.perf_counter() - start
        print(
            f"          affinity alone {built:.2f} s; scikit-learn, given the affinity, {other:.2f} s; with it "
            f"{(other + built) / seconds:.1f} times ours",
            flush=True,
        )
        if n <= LAPACK_UP_TO:
            np.fill_diagonal(graph, 0)
            without = graph.sum(axis=1)
            theirs = np.concatenate([np.ones((n, 1)), theirs], axis=1) * np.sqrt(without)[:, None]
            angle = angle_to_lapack(theirs, graph)
            double = unit.double()
            graph = (double @ double.T - 1).exp().numpy()
            print(
                f"          largest angle to LAPACK in float64: ours {angle_to_lapack(ours.eigenvectors, graph):.1e}, "
                f"scikit-learn's {angle:.1e} (graph without diagonal)",
                flush=True,
            )


if __name__ == "__main__":
    main()
