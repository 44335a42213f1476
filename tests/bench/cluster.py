"""`eigs` by one process, and by workers of this machine with one thread each: seconds, processor time, the same bytes.

OMP_NUM_THREADS=1 python -m tests.bench.cluster --images 64 --layers 6 --workers 1 2
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.bench.common import run_measured, write_vit_like_store
from tests.conftest import array_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--sample", type=int, default=4000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        features = Path(name) / "f.zarr"
        nodes = write_vit_like_store(features, n_images=given.images, n_models=1, n_layers=given.layers)
        print(f"{nodes:,} nodes, {given.sample:,} sampled, carried by nearest neighbours")
        command = [sys.executable, "-m", "aligncut_cli", "eigs", str(features), "-q"]
        command += ["--n-sample", str(given.sample), "--search", "flat", "--group", "model"]
        expected: dict[str, bytes] = {}
        for where in [None, *(f"local:{count}" for count in given.workers)]:
            output = Path(name) / f"{where or 'one'}.zarr"
            figures = run_measured([*command, "-o", str(output), *(["--scheduler", where] if where else [])])
            found = array_bytes(output)
            expected = expected or found
            print(
                f"{where or 'one process':<12} {figures.seconds:6.1f} s, processors {figures.cpu_seconds:6.1f} s, "
                f"{'the same bytes' if found == expected else 'OTHER BYTES'}"
            )


if __name__ == "__main__":
    main()
