"""How to store tokens: chunk and shard size, compression, checksum and concurrency for this project's access pattern.

python -m tests.bench.storage --images 400

Features are written once, by slot and a few images at a time, as `extract` does; read by slot from end to end, as every
stage does; and read by random node, as sampling does. Reads are from the disk: written back and dropped from the page
cache before. One row per layout; figures in GB/s of float16 tokens.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from aligncut_cli.store.read import read_ahead
from tests.bench.common import TOKENS, VitLikeFeatures

SLOTS, DIM, BLOCK = 4, 768, 16
CODECS: dict[str, list[Any]] = {
    "none": [],
    "zstd 1": [ZstdCodec(level=1)],
    "zstd 3": [ZstdCodec(level=3)],
    "blosc lz4 bitshuffle": [BloscCodec(cname="lz4", shuffle="bitshuffle")],
}


@dataclass(frozen=True)
class Layout:
    """Images per chunk, chunks' images per shard file (None: a chunk is a file), codec, checksum, blocks read ahead."""

    chunk: int = 16
    shard: int | None = None
    codec: str = "none"
    checksum: bool = True
    ahead: int = 2


LAYOUTS = [
    *(Layout(chunk=chunk) for chunk in (1, 4, 16, 64)),
    *(Layout(chunk=chunk, shard=shard) for chunk, shard in ((1, 16), (4, 64), (16, 64))),
    *(replace(Layout(), codec=codec) for codec in CODECS if codec != "none"),
    Layout(checksum=False),
    *(Layout(ahead=ahead) for ahead in (0, 1, 4)),
]


def create(path: Path, layout: Layout, n_images: int) -> zarr.Array[Any]:
    """Create the array of one model, [layer, image, token, channel]."""
    tail = (TOKENS, DIM)
    return zarr.create_array(
        path,
        shape=(SLOTS, n_images, *tail),
        dtype="float16",
        chunks=(1, layout.chunk, *tail),
        shards=None if layout.shard is None else (1, layout.shard, *tail),
        compressors=[*CODECS[layout.codec], *([Crc32cCodec()] if layout.checksum else [])] or None,
        config={"write_empty_chunks": True},
    )


def files_of(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file())


def forget(path: Path) -> None:
    """Write a store's files back and drop them from the page cache."""
    for file in files_of(path):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(path: Path, layout: Layout, blocks: NDArray[np.float16]) -> str:
    n_images = blocks.shape[1]
    size = blocks.nbytes / 1e9
    step = max(BLOCK, layout.chunk, layout.shard or 0)
    places = [(slot, slice(low, low + step)) for slot in range(SLOTS) for low in range(0, n_images, step)]
    array = create(path, layout, n_images)

    def write() -> None:
        for place in places:
            array[place] = blocks[place]
        os.sync()

    def stream() -> float:
        return sum(
            float(block[0, 0, 0]) for block in read_ahead((lambda p=p: array[p] for p in places), depth=layout.ahead)
        )

    def one_image() -> float:
        return float(array[SLOTS - 1, n_images // 2][0, 0])

    wanted = np.random.default_rng(0).permutation(n_images)[: n_images // 8]

    def some_images() -> None:
        for image in wanted:
            array[0, int(image)]

    writing = size / seconds_of(write)
    forget(path)
    cold = size / seconds_of(stream)
    warm = size / seconds_of(stream)
    forget(path)
    single = seconds_of(one_image) * 1e3
    forget(path)
    scattered = seconds_of(some_images) / len(wanted) * 1e3
    stored = [file.stat().st_size for file in files_of(path)]
    chunk = f"{layout.chunk}" + (f" in shards of {layout.shard}" if layout.shard else "")
    checksum = "yes" if layout.checksum else "no"
    return (
        f"| {chunk} | {layout.codec} | {checksum} | {layout.ahead} | {writing:.2f} | {cold:.2f} | {warm:.2f} "
        f"| {single:.1f} | {scattered:.1f} | {sum(stored) / blocks.nbytes:.3f} | {len(stored) - 1} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=384, help="a multiple of 64")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    made = VitLikeFeatures(SLOTS)
    blocks = np.stack([made.block(slot, 0, given.images).numpy() for slot in range(SLOTS)])
    blocks = blocks.reshape(SLOTS, given.images, TOKENS, DIM)
    print(f"{blocks.nbytes / 1e9:.2f} GB of tokens, {SLOTS} slots x {given.images} images")
    print(
        "| images per chunk | codec | CRC | blocks ahead | write | read, disk | read, cache | one image, ms | ", end=""
    )
    print("random image, ms | bytes stored | files |\n|" + "---|" * 11)
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            path = Path(name) / "tokens"
            print(measure(path, layout, blocks), flush=True)
            shutil.rmtree(path)


if __name__ == "__main__":
    main()
