"""A real Dask scheduler and three worker processes: the bytes of every stage, deaths, refusals, a lost scheduler."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import aligncut, done, spawn
from tests.store.counted_pages import EXPECTED, N_PAGES, read_pages
from tests.store.shared_world import ALONE, check_workers, commands, content, make_world, summary_of
from tests.store.test_crew import markers, start, wait_until

pytest.importorskip("distributed")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
N_WORKERS = 3
PATIENCE = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
"""A batch is given up by the scheduler after two deaths, instead of four, as each costs a start."""


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
                env={**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", **PATIENCE},
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
            found = client.run(os.getpid, on_error="ignore")  # one that was killed just now cannot answer
            return sorted(found.values())

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
    return make_world(tmp_path_factory.mktemp("world"), ["f.zarr", "a.zarr", "e.zarr"])


def test_three_workers_write_the_bytes_of_one_process(cluster: Cluster, world: Path, tmp_path: Path) -> None:
    check_workers(world, "a.zarr", tmp_path / "a.zarr", cluster.where)


@pytest.fixture(scope="module")
def whole_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("whole"))


@pytest.mark.cluster
@pytest.mark.parametrize("name", [name for name in commands(Path()) if name not in ALONE])
def test_three_workers_write_the_bytes_of_one_process_in_every_stage(
    cluster: Cluster, whole_world: Path, tmp_path: Path, name: str
) -> None:
    check_workers(whole_world, name, tmp_path / name, cluster.where)


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["e.zarr", "x.zarr"])
def test_a_worker_killed_in_every_phase_changes_no_byte(
    cluster: Cluster, world: Path, tmp_path: Path, name: str
) -> None:
    if not (world / name).exists():
        done(*commands(world)[name], "-o", world / name)
    done_folder, struck = tmp_path / f"{name}.wip" / "done", set()
    with spawn([*commands(world)[name], "-o", tmp_path / name, "--scheduler", cluster.where]) as run:  # waits for it
        while run.poll() is None:
            names: list[str] = []
            with contextlib.suppress(FileNotFoundError):  # before the first marker, and when the store gets its name
                names = os.listdir(done_folder)
            phases = {marker.rpartition(".")[0] for marker in names} - {"create", "nodes", "sample", "checked rows"}
            for phase in phases - struck:
                pids = cluster.pids()
                if not pids:  # all that were killed are being replaced
                    break
                struck.add(phase)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[len(struck) % len(pids)], signal.SIGKILL)
            time.sleep(0.05)
        _, err = run.communicate()
    assert run.returncode == 0, err
    assert struck >= ({"blocks"} if name == "x.zarr" else {"gather", "solve", "carry"})
    assert content(tmp_path / name) == content(world / name)
    assert summary_of(tmp_path / name) == summary_of(world / name)


@pytest.mark.cluster
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


@pytest.mark.cluster
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


@pytest.mark.cluster
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


@pytest.mark.cluster
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
