"""`extract --precision bf16` against fp32: throughput, the error of the features layer by layer, and what it does to
the eigenvectors of `eigs`.

python -m tests.bench.precision PHOTOS --images 40
python -m tests.bench.precision PHOTOS --images 40 --model demo-clip --weights ""
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aligncut_cli.images.files import find_images
from aligncut_cli.store.read import Store, open_store
from tests.bench.common import Measured, run_measured

PRECISIONS, FEW = ("fp32", "bf16"), 8


def run_aligncut(*words: object) -> Measured:
    return run_measured([sys.executable, "-m", "aligncut_cli", *map(str, words), "-q"])


def read_all(store: Store, array: str) -> NDArray[np.float64]:
    """Read an array of all models side by side, (layer of any model, nodes, channel)."""
    read = [store.read(f"{model.name}/{array}").astype(np.float64) for model in store.axes.models]
    return np.concatenate([values.reshape(len(values), -1, values.shape[-1]) for values in read])


def describe_errors(ours: NDArray[np.float64], exact: NDArray[np.float64]) -> list[str]:
    """Say for every layer the relative error in the norm, and the least cosine of one token with itself."""
    lines = ["| layer | relative error | mean cosine of a token | least |", "|---|---|---|---|"]
    for layer, (a, b) in enumerate(zip(ours, exact, strict=True)):
        cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        error = np.linalg.norm(a - b) / np.linalg.norm(b)
        lines.append(f"| {layer} | {error:.4f} | {cosine.mean():.6f} | {cosine.min():.6f} |")
    return lines


def describe_span(ours: NDArray[np.float64], exact: NDArray[np.float64]) -> str:
    """Compare eigenvectors one by one, and their spans by canonical correlations."""
    a, b = (values.reshape(-1, values.shape[-1]) for values in (ours, exact))
    one_by_one = np.abs((a * b).sum(axis=0)) / (np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0))
    canonical = np.linalg.svd(np.linalg.qr(a)[0].T @ np.linalg.qr(b)[0], compute_uv=False)
    return (
        f"eigenvectors of bf16 with those of fp32: cosine one by one, mean {one_by_one.mean():.5f}, least "
        f"{one_by_one.min():.5f}; canonical correlations of the spans, mean {canonical.mean():.5f}, "
        f"least {canonical.min():.5f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--model", default="vit=vit_base_patch16_224")
    parser.add_argument("--weights", default="vit=random", help="empty for the model's own")
    parser.add_argument("--n-eig", type=int, default=20)
    given = parser.parse_args()
    files = find_images([given.photos])[: given.images]
    model = ["--model", given.model, *(["--weights", given.weights] if given.weights else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (FEW, len(files)):
            (folder / f"{count}.txt").write_text("\n".join(str(file.path.resolve()) for file in files[:count]))
        per_image, stores = {}, {}
        for precision in PRECISIONS:
            seconds = {}
            for count in (FEW, len(files)):
                store = folder / f"{precision}-{count}.zarr"
                options = [*model, "--precision", precision]
                figures = run_aligncut("extract", folder / f"{count}.txt", "-o", store, *options)
                seconds[count] = figures.cpu_seconds
                print(f"{precision}, {count} images: {figures.seconds:.1f} s, {figures.cpu_seconds:.1f} CPU s", end="")
                print(f", peak {figures.peak / 1e9:.2f} GB", flush=True)
            per_image[precision] = (seconds[len(files)] - seconds[FEW]) / (len(files) - FEW)
            run_aligncut("eigs", store, "-o", f"{store}.eigs", "--n-eig", given.n_eig, "--extend", "nystrom",
                         "--n-sample", 4000, "--group", "model")  # fmt: skip
            stores[precision] = (open_store(store), open_store(Path(f"{store}.eigs")))
        each = ", ".join(f"{precision} {value:.3f}" for precision, value in per_image.items())
        print(f"CPU s per image beyond start-up: {each}; {per_image['fp32'] / per_image['bf16']:.2f} times as fast")
        features, eigs = zip(*(stores[precision] for precision in PRECISIONS), strict=True)
        print("\n".join(describe_errors(read_all(features[1], "tokens"), read_all(features[0], "tokens"))))
        print(describe_span(read_all(eigs[1], "eigvecs"), read_all(eigs[0], "eigvecs")))


if __name__ == "__main__":
    main()
