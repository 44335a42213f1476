"""Every stage by workers writes what one process writes: here the workers are threads that attach as processes do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.store.shared_world import check_workers, commands, make_world


class ThreadWorkers:
    """Workers in this process: the job is pickled and read, a stage of its own is made, and batches are computed."""

    retries = False

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(2)

    def count(self) -> int:
        return 2

    def ask(self, question: Callable[..., Any], *arguments: Any) -> Mapping[str, Any]:
        return {"here": self.executor.submit(question, *arguments).result()}

    def tell(self, order: Callable[..., Any], *arguments: Any) -> None:
        order(*arguments)

    def room(self) -> None:
        return None

    def has_died(self, error: BaseException) -> bool:
        return False

    def revive(self) -> None:
        return None

    def is_lost(self) -> bool:
        return False


@contextlib.contextmanager
def open_threads(scheduler: str, device: str) -> Iterator[ThreadWorkers]:
    workers = ThreadWorkers()
    with workers.executor:
        yield workers


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("name", list(commands(Path())))
def test_workers_write_the_bytes_of_one_process(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("aligncut_cli.store.crew.open_workers", open_threads)
    check_workers(world, name, tmp_path / name, "threads")


@pytest.mark.cluster
@pytest.mark.parametrize("name", ["n.zarr", "e.zarr", "t.zarr", "k.zarr", "concepts"])
def test_processes_of_this_machine_write_the_bytes_of_one(world: Path, tmp_path: Path, name: str) -> None:
    check_workers(world, name, tmp_path / name, "local:2")
