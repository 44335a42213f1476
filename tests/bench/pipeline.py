"""Every stage at the paper's size, 1,000 images x 3 ViT-B x 12 layers: time, peak memory and bytes written, per stage.

python -m tests.bench.pipeline PHOTOS MASKS --images 1000

The images are random crops of the photos, the masks the same crops, the weights random and the responses made up, each
voxel half coarse colours of the crop and half noise: what is measured is the cost. With --only the other outputs are
taken from an earlier run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.bench.common import run_measured

CROP, VOXELS = 240, 2000


def make_crops(photos: Path, masks: Path, folder: Path, n_images: int) -> None:
    """Write random crops of the photos, and the same of their masks, and responses to them."""
    rng = np.random.default_rng(0)
    found = sorted(file for file in photos.iterdir() if (masks / f"{file.stem}.png").exists())
    for name in ("photos", "masks", "responses"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    coarse = np.empty((n_images, 6 * 6 * 3), np.float32)
    for index in range(n_images):
        file = found[index % len(found)]
        with Image.open(file) as photo, Image.open(masks / f"{file.stem}.png") as mask:
            left, top = (int(rng.integers(0, max(1, size - CROP))) for size in photo.size)
            box = (left, top, left + CROP, top + CROP)
            crop = photo.convert("RGB").crop(box)
            crop.save(folder / "photos" / f"crop-{index:05d}.jpg", quality=95)
            coarse[index] = np.asarray(crop.resize((6, 6), Image.Resampling.BOX), np.float32).ravel()
            mask.crop(box).save(folder / "masks" / f"crop-{index:05d}.png")
    seen = (coarse - coarse.mean(axis=0)) @ rng.standard_normal((coarse.shape[1], VOXELS)).astype(np.float32)
    noise = rng.standard_normal((n_images, VOXELS)).astype(np.float32)
    np.save(folder / "responses" / "responses.npy", seen / seen.std(axis=0) + noise)


def stages(n_sample: int, points: int, precision: str) -> dict[str, list[str]]:
    """Return the commands in order, by the name of their output."""
    weights = [part for name in ("clip", "dino", "mae") for part in ("--weights", f"{name}=random")]
    return {
        "features.zarr": ["extract", "photos", *weights, "--precision", precision],
        "alignment.zarr": ["align", "features.zarr", "--responses", "responses"],
        "eigs.zarr": ["eigs", "features.zarr", "--alignment", "alignment.zarr", "--n-sample", str(n_sample)],
        "nystrom.zarr": ["eigs", "features.zarr", "--extend", "nystrom", "--n-sample", "4000"],
        "layers.zarr": ["eigs", "features.zarr", "--group", "layer", "--n-eig", "10", "--n-sample", "4000"],
        "tsne.zarr": ["tsne", "eigs.zarr", "--n-sample", str(points)],
        "pictures": ["render", "tsne.zarr"],
        "segments.zarr": ["segment", "layers.zarr", "--masks", "masks"],
        "transitions.zarr": ["transitions", "tsne.zarr", "--from", "clip:3", "--to", "clip:4", "--masks", "masks"],
        "similarity": ["compare", "features.zarr", "--alignment", "alignment.zarr"],
        "activations": ["activations", "features.zarr", "--alignment", "alignment.zarr", "--masks", "masks"],
        "concepts": ["concepts", "tsne.zarr", "--features", "features.zarr", "--alignment", "alignment.zarr"],
        "report": ["report", "eigs.zarr", "tsne.zarr", "segments.zarr", "transitions.zarr", "alignment.zarr"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("masks", type=Path, help="a folder of PNGs by image name")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--n-sample", type=int, default=50_000)
    parser.add_argument("--points", type=int, default=100_000, help="points that t-SNE is fitted on")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "aligncut-pipeline")
    parser.add_argument("--only", nargs="+", help="outputs to make, such as eigs.zarr tsne.zarr")
    given = parser.parse_args()
    if not (given.folder / "responses" / "responses.npy").exists():
        make_crops(given.photos, given.masks, given.folder, given.images)
    print("| stage | wall s | CPU s | peak RAM, GB | written, GB | files |\n|---|---|---|---|---|---|")
    for output, command in stages(given.n_sample, given.points, given.precision).items():
        if given.only and output not in given.only:
            continue
        path = given.folder / output
        if path.exists():
            shutil.rmtree(path)
        full = [sys.executable, "-m", "aligncut_cli", *command, "-o", output, "-q"]
        figures = run_measured(full, folder=given.folder)
        sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
        print(
            f"| `{' '.join(command)}` | {figures.seconds:.0f} | {figures.cpu_seconds:.0f} | {figures.peak / 1e9:.1f} "
            f"| {sum(sizes) / 1e9:.2f} | {len(sizes)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
