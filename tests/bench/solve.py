"""The sampled eigenproblem against scikit-learn's SpectralEmbedding on the same affinity, and its growth with m.

python -m tests.bench.solve --nodes 3000 5000 10000
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scipy.linalg
import torch
from sklearn.manifold import SpectralEmbedding

from aligncut_cli.maths.affinity import affinity, unit_rows
from aligncut_cli.maths.eigensolve import solve_normalized_cut
from tests.bench.common import VitLikeFeatures


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
        line = f"m={n:>6}: {seconds:7.2f} s, residual {ours.residuals.max():.1e}, {ours.storage}"
        if not given.alone:
            # scikit-learn computes the eigenvectors of the normalized Laplacian, divided by the root of the degree
            start = time.perf_counter()
            graph = affinity(unit, unit).double().numpy()
            theirs = SpectralEmbedding(given.n_eig - 1, affinity="precomputed", random_state=0).fit_transform(graph)
            other = time.perf_counter() - start
            mine = ours.eigenvectors[:, 1:] / np.sqrt(ours.degrees)[:, None]
            angles = scipy.linalg.subspace_angles(mine.astype(np.float64), theirs)
            line += f"; scikit-learn {other:7.2f} s = {other / seconds:.0f} x, largest angle {angles.max():.1e}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
