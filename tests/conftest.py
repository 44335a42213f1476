"""A small world for end-to-end tests: photos of every mode, a random tiny ViT, and the real command line."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# The arrays of these tests are tiny: more threads only wait for each other, above all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from aligncut_cli import cli

# A shell starts background jobs with Ctrl-C ignored, and the commands that these tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TINY = ["--model", "tiny=vit_tiny_patch16_224@64", "--weights", "random", "--layers", "0-2"]
PAIR = [*TINY, "--model", "pair=vit_tiny_patch16_224@64"]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@dataclass
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def path(self) -> Path:
        return Path(self.out.strip().splitlines()[-1])


def aligncut(*args: object, stdin: str = "") -> Result:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv, given = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["aligncut", *map(str, args)], io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 1
    finally:
        sys.argv, sys.stdin = argv, given
    return Result(code, out.getvalue(), err.getvalue())


def done(*args: object, stdin: str = "") -> Path:
    """Run a command that must succeed, and return the path it prints."""
    result = aligncut(*args, stdin=stdin)
    assert result.code == 0, result.err
    return result.path


def spawn(args: Sequence[object], *, kill_after: int | None = None, **more: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, which may kill itself at its n-th file operation.

    At its end it says on stderr how many file operations there were in the place of work.
    """
    hook = f"""
import atexit, os, signal, sys
count = 0
def watch(event, args):
    global count
    if event in ("open", "os.rename", "os.mkdir", "os.remove") and ".wip" in str(args[0]):
        count += 1
        if count == {kill_after}:
            os.kill(os.getpid(), signal.SIGKILL)
atexit.register(lambda: print("file operations:", count, file=sys.stderr))
sys.addaudithook(watch)
sys.argv = ["aligncut", *{[str(arg) for arg in args]!r}]
from aligncut_cli.cli import main
main()
"""
    return subprocess.Popen(
        [sys.executable, "-c", hook],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,  # type: ignore[call-overload]
    )


def array_bytes(store: Path) -> dict[str, bytes]:
    """Return every file of a store but the root's record, which holds times."""
    return {
        str(file.relative_to(store)): file.read_bytes()
        for file in sorted(store.rglob("*"))
        if file.is_file() and file != store / "zarr.json"
    }


def make_photos(folder: Path, count: int, *, seed: int = 0, size: int = 48) -> Path:
    """Write noisy colour patches whose tokens differ from photo to photo and within one."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8))
        coarse.resize((size + index, size), Image.Resampling.BICUBIC).save(folder / f"photo-{index:03d}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("world") / "photos", 12)


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Features of two random tiny ViTs, 3 layers, 12 photos, 17 tokens: 1,224 nodes."""
    return done("extract", photos, "-o", tmp_path_factory.mktemp("features") / "f.zarr", *PAIR, "--workers", 0)


@pytest.fixture(scope="session")
def eigs(tmp_path_factory: pytest.TempPathFactory, features: Path) -> Path:
    """Eigenvectors of the features, 300 nodes sampled."""
    output = tmp_path_factory.mktemp("eigs") / "e.zarr"
    return done("eigs", features, "-o", output, "--n-eig", 5, "--n-sample", 300, "--neighbors", 10)


@pytest.fixture(scope="session")
def tsne(tmp_path_factory: pytest.TempPathFactory, eigs: Path) -> Path:
    """A 3-D map of the eigenvectors."""
    output = tmp_path_factory.mktemp("tsne") / "t.zarr"
    return done("tsne", eigs, "-o", output, "--n-sample", 200, "--iterations", 100)
