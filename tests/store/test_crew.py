"""Workers of this machine: what dies is tried again, what always dies is named, and one process alone owns the work."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest

from aligncut_cli.errors import BadInput, OutOfResources, OutputInTheWay, UsageError
from aligncut_cli.stages.inspect.run import as_text, describe
from aligncut_cli.store.crew import describe_shares
from aligncut_cli.store.inspection import require_able
from aligncut_cli.store.place import BEAT, MISSED, Place
from aligncut_cli.store.run import Work
from aligncut_cli.store.worker import Portrait, portray
from aligncut_cli.store.workers import LocalWorkers, open_workers
from tests.store.counted_pages import EXPECTED, N_PAGES, make_pages, read_pages

LOCAL = "local:2"


def markers(output: Path, phase: str) -> set[int]:
    done = output.with_name(output.name + ".wip") / "done"
    return {int(file.name.rpartition(".")[2]) for file in done.glob(f"{phase}.*")}


def test_workers_write_what_one_process_writes_and_choose_nothing(tmp_path: Path) -> None:
    make_pages(tmp_path / "here")
    found = make_pages(tmp_path / "there", LOCAL)
    assert read_pages(tmp_path / "there") == read_pages(tmp_path / "here") == EXPECTED
    assert found.summary == {"words": 1}
    assert make_pages(tmp_path / "there").state == "up to date"


def test_a_death_is_tried_again_and_a_block_that_always_kills_is_named_with_the_rest_kept(tmp_path: Path) -> None:
    output, flag = tmp_path / "out", tmp_path / "flag"
    hooks = {2: ("die once", str(flag)), 7: ("die", "")}
    with pytest.raises(OutOfResources, match="block 7 of pages page 7"):
        make_pages(output, LOCAL, hooks)
    assert flag.exists()
    assert markers(output, "pages") == set(range(N_PAGES)) - {7}
    assert make_pages(output, None).state == "complete"
    assert read_pages(output) == EXPECTED


def test_an_error_of_a_block_is_said_as_if_it_was_computed_here(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="page 5 is torn"):
        make_pages(tmp_path / "out", LOCAL, {5: ("refuse", "page 5 is torn")})
    make_pages(tmp_path / "out", LOCAL)
    assert read_pages(tmp_path / "out") == EXPECTED


def test_a_scheduler_that_is_lost_while_workers_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> None:
        raise CancelledError

    monkeypatch.setattr(LocalWorkers, "ask", ask)
    with pytest.raises(OutOfResources, match="the scheduler local:2 was lost"):
        make_pages(tmp_path / "out", LOCAL)


SCRIPT = """
import sys
from pathlib import Path
from tests.store.counted_pages import make_pages
if __name__ == "__main__":
    make_pages(Path(sys.argv[1]), sys.argv[2], {int(sys.argv[3]): ("wait", sys.argv[4])})
"""


def start(tmp_path: Path, scheduler: str, block: int) -> subprocess.Popen[str]:
    """Start a run whose block waits for the file `go`."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "out"), scheduler, str(block), str(tmp_path / "go")]
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, stderr=subprocess.PIPE, text=True)


def wait_until(met: object, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not met():  # type: ignore[operator]
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_coordinator_that_ends_keeps_what_is_done_its_workers_end_and_a_second_is_refused_before(
    tmp_path: Path, number: int
) -> None:
    output = tmp_path / "out"
    first = start(tmp_path, LOCAL, 9)
    wait_until(lambda: len(markers(output, "pages")) >= 4, first)
    with pytest.raises(OutputInTheWay, match=f"another process.*{first.pid}"):
        make_pages(output, LOCAL)
    place = Place(output)
    assert f"{first.pid} on {socket.gethostname()}, beating" in (place.path / "lock").read_text()
    found = describe(output)
    assert found["workers"]["scheduler"] == LOCAL
    assert "blocks by each" in as_text(found)
    children = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
    first.send_signal(number)
    first.communicate(timeout=60)
    assert first.returncode != 0
    done = markers(output, "pages")
    assert len(done) >= 4
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    make_pages(output)
    assert read_pages(output) == EXPECTED


def test_a_coordinator_on_another_host_counts_while_it_beats_though_locks_do_not_reach_it(tmp_path: Path) -> None:
    place = Place(tmp_path / "out")
    place.path.mkdir()
    lock = place.path / "lock"
    lock.write_text("process 1 on elsewhere, beating\n")
    with pytest.raises(OutputInTheWay, match="on elsewhere"):
        make_pages(tmp_path / "out", LOCAL)
    assert place.holder() is not None
    os.utime(lock, (time.time() - MISSED - 1,) * 2)
    assert make_pages(tmp_path / "out").state == "complete"


def test_the_lock_beats_while_a_block_takes_long_and_says_nothing_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2 * BEAT < MISSED
    monkeypatch.setattr("aligncut_cli.store.place.BEAT", 0.05)
    place = Place(tmp_path / "out")
    place.lock()
    lock = place.path / "lock"
    with place.beating():
        os.utime(lock, (0, 0))
        time.sleep(0.5)
        assert time.time() - lock.stat().st_mtime < 60
        assert "beating" in lock.read_text()
    assert "beating" not in lock.read_text()
    assert threading.active_count() < 20
    place.unlock()


def visible() -> str:
    """Say which GPU this process sees, slowly enough that another process is asked too."""
    time.sleep(2)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def able(**more: object) -> Portrait:
    own = portray([], "cpu")
    return Portrait(**{**own.__dict__, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("worker", "kind", "text"),
    [
        ({"software": {**able().software, "aligncut": "9.9"}}, UsageError, "aligncut 9.9 instead of"),
        ({"software": {**able().software, "torch": "1.0"}}, UsageError, "torch 1.0 instead of"),
        ({"hidden": ["/data/f.zarr"]}, UsageError, "/data/f.zarr"),
        ({"device": False}, UsageError, "CUDA_VISIBLE_DEVICES"),
        ({"memory": 10}, OutOfResources, "2 workers on"),
    ],
)
def test_workers_that_would_fail_or_compute_something_else_are_refused_by_name(
    worker: dict[str, object], kind: type[Exception], text: str
) -> None:
    good, bad = able(process=1), able(process=2, **worker)
    with pytest.raises(kind, match=text) as raised:
        require_able({"a": good, "b": bad}, "cpu", 1000, count=2)
    assert bad.name in str(raised.value) or kind is OutOfResources
    assert require_able({"a": good}, "cpu", 1000, count=1) == []


def test_a_worker_that_would_be_stopped_for_its_memory_is_refused_with_both_numbers() -> None:
    with pytest.raises(OutOfResources, match=r"3.0 GB of memory, and one of them is stopped at 2.0 GB"):
        require_able({"a": able(memory=10**10)}, "cpu", 3 * 10**9, count=1, room=2 * 10**9)


@pytest.mark.parametrize(("device", "seen"), [("cuda", {"3", "GPU-7"}), ("cuda:1", {"GPU-7"})])
def test_workers_of_this_machine_get_a_gpu_each_or_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, device: str, seen: set[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7")
    with open_workers(LOCAL, device) as workers:
        futures = [workers.executor.submit(visible) for _ in range(2)]
        wait(futures)
        assert {future.result() for future in futures} == seen


def test_the_device_that_is_asked_for_reaches_the_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def refuse(scheduler: str, device: str) -> None:
        asked.append((scheduler, device))
        raise UsageError("enough")

    monkeypatch.setattr("aligncut_cli.store.crew.open_workers", refuse)
    with pytest.raises(UsageError, match="enough"):
        make_pages(tmp_path / "out", LOCAL, device="cuda:1")
    assert asked == [(LOCAL, "cuda:1")]


def test_workers_on_other_processors_are_said_and_those_without_aligncut_are_refused() -> None:
    warned = require_able({"a": able(processor="abacus")}, "cpu", 0, count=1)
    assert "abacus" in warned[0]
    with pytest.raises(UsageError, match="cannot load aligncut"):
        require_able({"a": ModuleNotFoundError("No module named 'aligncut_cli'")}, "cpu", 0, count=1)


def test_memory_is_projected_per_worker_and_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutOfResources, match=r"2 workers on .* each"):
        make_pages(tmp_path / "out", LOCAL, memory=10**17, max_memory="1000000T")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["local:0", "local:", "local:x", "s.json", "tcp://host", "file:", "http://a:1"])
def test_what_is_no_scheduler_is_refused_and_nothing_is_begun(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="names no scheduler"):
        make_pages(tmp_path / "out", text)
    assert list(tmp_path.iterdir()) == []


def test_a_run_computes_one_block_phases_itself_and_a_dry_run_reaches_for_no_worker(tmp_path: Path) -> None:
    planned = make_pages(tmp_path / "out", "tcp://127.0.0.1:9", dry_run=True)
    assert planned.state == "planned"


def test_shares_are_said_by_name_for_a_few_and_as_a_range_for_many() -> None:
    from collections import Counter

    assert describe_shares(Counter({"b:2": 3, "a:1": 1200})) == "a:1 1,200, b:2 3"
    assert describe_shares(Counter({f"n:{k}": k for k in range(1, 9)})) == "8 workers, 1 to 8 blocks each"


def test_a_worker_never_marks_and_never_chooses(tmp_path: Path) -> None:
    from aligncut_cli.params import RunOptions
    from aligncut_cli.store.provenance import Identity

    work = Work(Identity("pages", 1, "folder", {}), RunOptions(output=tmp_path / "o"), settled={"a": 1})
    assert work.settle("a", lambda: 2) == 1
    with pytest.raises(Exception, match="was to choose 'b'"):
        work.settle("b", lambda: 2)
    assert json.dumps(work.settled) == '{"a": 1}'
