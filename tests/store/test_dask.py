"""A real Dask scheduler and three worker processes: the bytes of every stage, deaths, refusals, a lost scheduler."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import PAIR, aligncut, array_bytes, done, make_photos, spawn
from tests.store.counted_pages import EXPECTED, N_PAGES, read_pages
from tests.store.test_crew import markers, start, wait_until

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
N_WORKERS = 3


class Cluster:
    """A scheduler and its workers, in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "s.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        folder.mkdir()
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", "0")

    def start(self, what: str, *more: str, package: Path = ROOT) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + what, "--scheduler-file", str(self.file)]
        with (self.folder / f"{what}-{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--no-dashboard", *more],
                env={**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def add_workers(self, count: int, **more: Path) -> None:
        for _ in range(count):
            self.start("worker", "--nthreads", "1", "--local-directory", str(self.folder / "scratch"), **more)
        deadline = time.monotonic() + 300
        while len(self.pids()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def pids(self) -> list[int]:
        """Return the processes that compute, which are not those that watch over them."""
        from distributed import Client

        if not self.file.exists():
            return []
        with Client(scheduler_file=str(self.file), set_as_default=False, timeout=120) as client:
            return sorted(client.run(os.getpid).values())

    @property
    def where(self) -> str:
        return f"file:{self.file}"

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster") / "c")
    try:
        made.add_workers(N_WORKERS)
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, masks, responses, and every store made in one process."""
    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("world")
    photos = make_photos(folder / "photos", 24)
    (folder / "masks").mkdir()
    for photo in photos.glob("*.png"):
        with Image.open(photo) as picture:
            mask = np.zeros(picture.size[::-1], dtype=np.uint8)
        mask[:, : mask.shape[1] // 2] = 1
        Image.fromarray(mask).save(folder / "masks" / photo.name)
    np.save(folder / "responses.npy", np.random.default_rng(0).standard_normal((24, 20)).astype(np.float32))
    for name, command in commands(folder).items():
        done(*command, "-o", folder / name)
    return folder


def commands(world: Path) -> dict[str, Sequence[object]]:
    """By output the commands of one pipeline, each from the outputs before it."""
    fit = ["--universal-dim", 8, "--epochs", 2, "--responses", world / "responses.npy"]
    return {
        "f.zarr": ["extract", world / "photos", *PAIR, "--workers", 0],
        # Tokens enough for two chunks of images, so that there is something to share out.
        "x.zarr": [
            *["extract", world / "photos", "--model", "tiny=vit_tiny_patch16_224@448", "--weights", "random"],
            *["--layers", "0-1", "--batch-size", 4, "--workers", 0],
        ],
        "a.zarr": ["align", world / "f.zarr", *fit, "--folds", 2, "--seeds", 2],
        "b.zarr": ["align", world / "f.zarr", *fit, "--folds", 2, "--target", "both", "--n-sample", 100],
        "u.zarr": ["align", world / "f.zarr", "--apply", world / "a.zarr"],
        "e.zarr": [
            *["eigs", world / "f.zarr", "--alignment", world / "a.zarr", "--group", "layer", "--n-eig", 5],
            *["--n-sample", 200, "--neighbors", 10, "--orthogonalize", "--check", 20],
        ],
        "n.zarr": [
            *["eigs", world / "f.zarr", "--alignment", world / "a.zarr", "--n-eig", 5, "--n-sample", 300],
            *["--sample", "fps", "--extend", "nystrom", "--check", 20, "--centre", "slot"],
        ],
        "t.zarr": ["tsne", world / "n.zarr", "--n-sample", 200, "--iterations", 30],
        "s.zarr": ["segment", world / "e.zarr", world / "n.zarr", "--masks", world / "masks", "--n-eig", 5],
        "k.zarr": [
            *["segment", world / "e.zarr", world / "n.zarr", "--masks", world / "masks"],
            *["--clusters", 4, "--cluster-sample", 100],
        ],
        "compared": ["compare", world / "x.zarr", "--n-sample", 100],
        "activated": [
            *["activations", world / "f.zarr", "--alignment", world / "a.zarr", "--masks", world / "masks"],
            *["--token", "photo-003:1,2", "--token", "photo-004:0,1", "--slot", "tiny:1", "--pictures", 2],
        ],
        "concepts": ["concepts", world / "t.zarr", "--features", world / "f.zarr", "--alignment", world / "a.zarr"],
    }


ALONE = ("f.zarr", "concepts")
"""Outputs with a single block of photos, and those whose passes add to what went before: one process makes them."""


def summary_of(output: Path) -> object:
    """Return the figures of an output's record, which hold the sums that are no array."""
    if (output / "zarr.json").exists():
        return json.loads((output / "zarr.json").read_text())["attributes"]["aligncut"]["summary"]
    return json.loads((output / "aligncut.json").read_text())["aligncut"]["summary"]


def content(output: Path) -> dict[str, bytes]:
    return {name: data for name, data in array_bytes(output).items() if name != "aligncut.json"}


@pytest.mark.parametrize("name", list(commands(Path())))
def test_three_workers_write_the_bytes_of_one_process(cluster: Cluster, world: Path, tmp_path: Path, name: str) -> None:
    result = aligncut(*commands(world)[name], "-o", tmp_path / name, "--scheduler", cluster.where, "-v")
    assert result.code == 0, result.err
    phases = [line for line in result.err.splitlines() if " workers: " in line]
    assert bool(phases) == (name not in ALONE), result.err
    assert content(tmp_path / name) == content(world / name)
    assert summary_of(tmp_path / name) == summary_of(world / name)


@pytest.mark.parametrize("name", ["x.zarr", "e.zarr"])
def test_a_worker_killed_in_every_phase_changes_no_byte(
    cluster: Cluster, world: Path, tmp_path: Path, name: str
) -> None:
    run = spawn([*commands(world)[name], "-o", tmp_path / name, "--scheduler", cluster.where])
    done_folder, struck = tmp_path / f"{name}.wip" / "done", set()
    while run.poll() is None:
        names = os.listdir(done_folder) if done_folder.is_dir() else []
        phases = {marker.rpartition(".")[0] for marker in names} - {"create", "nodes", "sample"}
        for phase in phases - struck:
            struck.add(phase)
            with contextlib.suppress(ProcessLookupError):
                os.kill(cluster.pids()[len(struck) % N_WORKERS - 1], signal.SIGKILL)
        time.sleep(0.05)
    _, err = run.communicate()
    assert run.returncode == 0, err
    assert struck >= ({"blocks"} if name == "x.zarr" else {"gather", "solve", "carry"})
    assert content(tmp_path / name) == content(world / name)


def test_a_killed_worker_is_replaced_and_a_poison_block_is_named_with_the_rest_kept(
    cluster: Cluster, tmp_path: Path
) -> None:
    from aligncut_cli.errors import OutOfResources
    from tests.store.counted_pages import make_pages

    flag = tmp_path / "flag"
    make_pages(tmp_path / "once", cluster.where, {3: ("die once", str(flag))})
    assert flag.exists()
    assert read_pages(tmp_path / "once") == EXPECTED
    with pytest.raises(OutOfResources, match="block 7 of pages page 7"):
        make_pages(tmp_path / "out", cluster.where, {7: ("die", "")})
    assert markers(tmp_path / "out", "pages") == set(range(N_PAGES)) - {7}
    make_pages(tmp_path / "out")
    assert read_pages(tmp_path / "out") == EXPECTED


def test_a_coordinator_that_is_killed_is_resumed_and_a_second_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    from aligncut_cli.errors import OutputInTheWay
    from tests.store.counted_pages import make_pages

    first = start(tmp_path, cluster.where, 11)
    wait_until(lambda: len(markers(tmp_path / "out", "pages")) >= 4, first)
    with pytest.raises(OutputInTheWay, match=str(first.pid)):
        make_pages(tmp_path / "out", cluster.where)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    (tmp_path / "go").touch()
    make_pages(tmp_path / "out", cluster.where)
    assert read_pages(tmp_path / "out") == EXPECTED


def test_a_worker_of_another_version_is_refused_before_any_work(cluster: Cluster, world: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "aligncut_cli", tmp_path / "other" / "aligncut_cli", ignore=lambda *_: ["__pycache__"])
    (tmp_path / "other" / "aligncut_cli" / "__init__.py").write_text('__version__ = "0.0.1"\n')
    own = Cluster(tmp_path / "c")
    try:
        own.add_workers(1, package=tmp_path / "other")
        result = aligncut(*commands(world)["f.zarr"], "-o", tmp_path / "f.zarr", "--scheduler", own.where)
    finally:
        own.end()
    assert result.code == 2
    assert "aligncut 0.0.1 instead of" in result.err
    assert not (tmp_path / "f.zarr.wip").exists()


def test_a_lost_scheduler_ends_the_run_with_what_is_done_kept_and_it_goes_on_without(tmp_path: Path) -> None:
    from tests.store.counted_pages import make_pages

    own = Cluster(tmp_path / "c")
    try:
        own.add_workers(1)
        run = start(tmp_path, own.where, 11)
        wait_until(lambda: len(markers(tmp_path / "out", "pages")) >= 2, run)
        own.scheduler.kill()
        _, err = run.communicate(timeout=90)
    finally:
        own.end()
    assert "OutOfResources: the scheduler" in err
    assert len(markers(tmp_path / "out", "pages")) >= 2
    make_pages(tmp_path / "out")
    assert read_pages(tmp_path / "out") == EXPECTED


def test_no_scheduler_at_an_address_is_a_usage_error(tmp_path: Path, world: Path) -> None:
    for where in ("file:" + str(tmp_path / "none.json"), "tcp://127.0.0.1:9"):
        result = aligncut(*commands(world)["f.zarr"], "-o", tmp_path / "f.zarr", "--scheduler", where)
        assert result.code == 2
        assert "scheduler" in result.err
    assert list(tmp_path.iterdir()) == []
