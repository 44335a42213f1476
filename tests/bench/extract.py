"""`extract` against the bare timm forward pass on the same images in memory, and its memory as images grow.

python -m tests.bench.extract PHOTOS --images 32 64
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch

from aligncut_cli.images.decode import decode_image
from aligncut_cli.images.files import find_images
from tests.bench.common import run_measured

NAME, SIZE, BATCH = "vit_base_patch16_224.mae", 224, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[16, 48])
    given = parser.parse_args()
    found = find_images([given.photos])
    model = timm.create_model(NAME, num_classes=0).eval()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        for count in given.images:
            listed = Path(name) / f"{count}.txt"
            listed.write_text("\n".join(str(file.path.resolve()) for file in found[:count]))
            stack = torch.stack([torch.from_numpy(decode_image(f.path, [(SIZE, SIZE)])[0]) for f in found[:count]])
            images = stack.permute(0, 3, 1, 2).float() / 255
            start = time.perf_counter()
            with torch.inference_mode():
                for batch in images.split(BATCH):
                    model.forward_features(batch)
            bare = time.perf_counter() - start
            output = Path(name) / "f.zarr"
            command = [sys.executable, "-m", "aligncut_cli", "extract", str(listed), "-o", str(output), "-q"]
            figures = run_measured([*command, "--model", "mae", "--weights", "random", "--overwrite"])
            results[count] = (bare, figures)
            shutil.rmtree(output)
            print(
                f"{count} images: bare {bare:.1f} s; extract {figures.seconds:.1f} s, peak {figures.peak / 1e9:.2f} GB"
            )
    few, many = min(results), max(results)
    if many > few:
        bare = (results[many][0] - results[few][0]) / (many - few)
        ours = (results[many][1].seconds - results[few][1].seconds) / (many - few)
        print(f"per image beyond start-up: bare {bare:.3f} s, extract {ours:.3f} s, throughput ratio {bare / ours:.2f}")


if __name__ == "__main__":
    main()
