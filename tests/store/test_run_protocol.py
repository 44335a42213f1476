"""The run protocol, on every stage: nothing is lost, nothing done twice, nothing replaced unasked."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aligncut_cli.errors import OutputInTheWay, UsageError
from aligncut_cli.store.place import Place
from aligncut_cli.store.run import parse_size
from tests.conftest import TINY, aligncut, array_bytes, done, make_photos, spawn

CUT = ["--n-sample", 300, "--neighbors", 10]
EIGS = ["--n-eig", 5, *CUT]
TSNE = ["--n-sample", 200, "--iterations", 60]


def stage_command(stage: str, photos: Path, features: Path, eigs: Path) -> list[object]:
    return {
        "extract": ["extract", photos, *TINY, "--workers", 0, "--batch-size", 4],
        "eigs": ["eigs", features, *EIGS, "--orthogonalize", "--check", 20],
        "tsne": ["tsne", eigs, *TSNE],
    }[stage]


@pytest.mark.parametrize("stage", ["extract", "eigs", "tsne"])
def test_ten_kills_leave_the_bytes_of_an_uninterrupted_run(
    stage: str, tmp_path: Path, photos: Path, features: Path, eigs: Path
) -> None:
    command = stage_command(stage, photos, features, eigs)
    whole = tmp_path / "whole.zarr"
    process = spawn([*command, "-o", whole])
    _, err = process.communicate()
    assert process.returncode == 0, err
    operations = int(err.rpartition("file operations: ")[2])
    rng = np.random.default_rng(len(stage))
    kills, attempt, phases = 0, 0, set()
    while kills < 10:
        # A store that was finished between two kills is compared, and the next kill strikes a new one.
        killed = tmp_path / f"killed-{attempt}.zarr"
        process = spawn([*command, "-o", killed], kill_after=int(rng.integers(1, operations)))
        _, err = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), err
        if process.returncode:
            kills += 1
            done_folder = tmp_path / f"killed-{attempt}.zarr.wip" / "done"
            phases |= {marker.name.partition(".")[0] for marker in done_folder.glob("*")}
        else:
            assert array_bytes(killed) == array_bytes(whole)
            attempt += 1
    killed = tmp_path / f"killed-{attempt}.zarr"
    done(*command, "-o", killed)
    assert array_bytes(killed) == array_bytes(whole)
    assert not (tmp_path / f"killed-{attempt}.zarr.wip").exists()
    assert len(phases) > 1, "every kill struck before the first block"


def test_a_resumed_run_computes_only_blocks_without_marker(tmp_path: Path, features: Path, monkeypatch) -> None:
    from aligncut_cli.stages.eigs import phases as eigs_phases

    output = tmp_path / "e.zarr"
    carried = []
    original = eigs_phases.EigsStage._carry

    def carry(self, index, block, rows):
        if len(carried) == 2:
            raise KeyboardInterrupt
        carried.append(block)
        return original(self, index, block, rows)

    monkeypatch.setattr(eigs_phases.EigsStage, "_carry", carry)
    stopped = aligncut("eigs", features, "-o", output, *EIGS)
    assert stopped.code == 130
    assert "2 of 6 carry" in stopped.err
    monkeypatch.setattr(
        eigs_phases.EigsStage, "_carry", lambda self, i, b, r: carried.append(b) or original(self, i, b, r)
    )
    monkeypatch.setattr(eigs_phases, "solve_normalized_cut", None)
    done("eigs", features, "-o", output, *EIGS)
    assert len(carried) == 6
    assert len(set(map(str, carried))) == 6


def test_a_finished_stage_is_up_to_date_and_computes_nothing(tmp_path: Path, features: Path, monkeypatch) -> None:
    from aligncut_cli.stages.eigs import phases as eigs_phases

    output = done("eigs", features, "-o", tmp_path / "e.zarr", *EIGS)
    before = array_bytes(output)
    monkeypatch.setattr(eigs_phases, "EigsStage", None)
    again = aligncut("eigs", features, "-o", output, *EIGS)
    assert (again.code, again.path) == (0, output)
    assert "up to date" in again.err
    assert array_bytes(output) == before


def test_another_digest_is_refused_by_name_and_replaced_only_when_asked(tmp_path: Path, features: Path) -> None:
    output = done("eigs", features, "-o", tmp_path / "e.zarr", *EIGS)
    before = array_bytes(output)
    refused = aligncut("eigs", features, "-o", output, *CUT, "--n-eig", 4, "--extend", "nystrom")
    assert refused.code == 4
    assert "n_eig: 5 -> 4" in refused.err
    assert "extend: knn -> nystrom" in refused.err
    assert "--overwrite" in refused.err
    assert array_bytes(output) == before
    done("eigs", features, "-o", output, *CUT, "--n-eig", 4, "--overwrite")
    assert json.loads((output / "zarr.json").read_text())["attributes"]["aligncut"]["params"]["n_eig"] == 4


def test_an_overwritten_output_stands_until_the_new_one_is_complete(
    tmp_path: Path, features: Path, monkeypatch
) -> None:
    from aligncut_cli.stages.eigs import phases as eigs_phases

    output = done("eigs", features, "-o", tmp_path / "e.zarr", *EIGS)
    before = array_bytes(output)

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(eigs_phases.EigsStage, "_carry", stop)
    assert aligncut("eigs", features, "-o", output, *EIGS, "--seed", 1, "--overwrite").code == 130
    assert array_bytes(output) == before


def test_files_of_others_are_never_replaced(tmp_path: Path, features: Path) -> None:
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.txt").write_text("all of it")
    refused = aligncut("eigs", features, "-o", mine, *EIGS, "--overwrite")
    assert refused.code == 4
    assert "was not made by aligncut" in refused.err
    assert (mine / "chapter.txt").read_text() == "all of it"


def test_an_output_inside_the_input_is_refused(features: Path) -> None:
    for output in (features, features / "inner.zarr"):
        result = aligncut("eigs", features, "-o", output, *EIGS)
        assert result.code == 2, result.err
    assert (features / "zarr.json").exists()


def wait_for_lock(process: subprocess.Popen[str], output: Path) -> None:
    lock = output.with_name(output.name + ".wip") / "lock"
    while process.poll() is None and not (lock.exists() and str(process.pid) in lock.read_text()):
        time.sleep(0.01)


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path: Path, photos: Path) -> None:
    output = tmp_path / "f.zarr"
    command = ["extract", photos, "-o", output, "--model", "tiny=vit_tiny_patch16_224@64", "--weights", "random"]
    first = spawn([*command, "--workers", 0, "--batch-size", 1])
    wait_for_lock(first, output)
    first.send_signal(signal.SIGSTOP)
    try:
        second = aligncut(*command, "--workers", 0, "--batch-size", 1)
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.communicate()[0].strip() == str(output)
    assert second.code == 4
    assert "another process" in second.err
    assert str(first.pid) in second.err


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize(
    ("holder", "silent", "busy"),
    [
        ("process {parent} on {here}", 9999, True),
        ("process {dead} on {here}", 0, False),
        ("process {parent} on elsewhere", 60, True),
        ("process {parent} on elsewhere", 9999, False),
        ("", 0, False),
    ],
)
def test_without_locks_the_holder_counts_while_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, holder: str, silent: int, busy: bool
) -> None:
    def flock(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("aligncut_cli.store.place.fcntl.flock", flock)
    dead = subprocess.Popen(["true"])
    dead.wait()
    place = Place(tmp_path / "o.zarr")
    place.path.mkdir()
    lock = place.path / "lock"
    lock.write_text(holder.format(parent=os.getppid(), dead=dead.pid, here=socket.gethostname()))
    os.utime(lock, (time.time() - silent,) * 2)
    if busy:
        with pytest.raises(OutputInTheWay, match="another process"):
            place.lock()
        assert place.holder() is not None
        return
    place.lock()
    os.utime(lock, (0, 0))
    place.beat()
    assert time.time() - lock.stat().st_mtime < 60
    assert str(os.getpid()) in lock.read_text()
    place.unlock()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_say_how_far_and_keep_what_is_done(tmp_path: Path, number: int, code: int) -> None:
    # Enough work that it cannot be over before a signal that comes late on a busy machine.
    photos, output = make_photos(tmp_path / "photos", 80), tmp_path / "f.zarr"
    command = ["extract", photos, "-o", output, *TINY, "--workers", 1, "--batch-size", 1]
    process = spawn(command)
    wait_for_lock(process, output)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "goes on from there" in err
    assert "Traceback" not in err
    assert done(*command) == output


def test_a_write_under_way_is_not_complained_of(tmp_path: Path) -> None:
    script = tmp_path / "stop.py"
    script.write_text(
        "import asyncio, os, signal, threading, time\n"
        "from zarr.core.sync import sync\n"
        "from aligncut_cli import cli\n"
        "async def put():\n"
        "    await asyncio.sleep(1)\n"
        "    await asyncio.to_thread(print)\n"
        "async def write():\n"
        "    chunk = asyncio.create_task(put())\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await asyncio.sleep(2)\n"
        "def run():\n"
        "    threading.Thread(target=time.sleep, args=(3,)).start()\n"  # the process ends after the write has failed
        "    sync(write())\n"
        "cli.app = run\n"
        "cli.main()\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ended.returncode == 143, ended.stderr
    assert ended.stderr.splitlines() == ["warning: stopped. The same command goes on from there."]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path, features: Path) -> None:
    output = tmp_path / "e.zarr"
    result = aligncut("eigs", features, "-o", output, *EIGS, "-n", "--json")
    plan = json.loads(result.out)
    assert result.code == 0
    assert plan["blocks"]["carry"] == {"done": 0, "pending": 6}
    assert plan["bytes_to_write"] > 0
    assert plan["memory"] > 0
    assert list(tmp_path.iterdir()) == []
    done("eigs", features, "-o", output, *EIGS)
    differs = json.loads(aligncut("eigs", features, "-o", output, *EIGS, "--seed", 3, "-n", "--json").out)["differs"]
    assert differs == ["seed: 0 -> 3"]


def test_too_little_memory_is_refused_before_the_work_with_both_numbers(tmp_path: Path, features: Path) -> None:
    result = aligncut("eigs", features, "-o", tmp_path / "e.zarr", *EIGS, "--max-memory", "100M")
    assert result.code == 5
    assert "100 MB" in result.err
    assert "needs about" in result.err


def test_too_little_disk_is_refused_before_the_work_with_both_numbers(
    tmp_path: Path, features: Path, monkeypatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    result = aligncut("eigs", features, "-o", tmp_path / "e.zarr", *EIGS)
    assert result.code == 5
    assert "1.0 KB are free" in result.err


def test_a_disk_that_fills_up_loses_nothing(tmp_path: Path, features: Path, monkeypatch) -> None:
    from aligncut_cli.store.write import Writer

    original, writes = Writer.write, []

    def write(self, name, selection, values):
        writes.append(name)
        if len(writes) == 8:
            raise OSError(28, "No space left on device", name)
        original(self, name, selection, values)

    monkeypatch.setattr(Writer, "write", write)
    full = aligncut("eigs", features, "-o", tmp_path / "e.zarr", *EIGS)
    assert full.code == 5
    assert "disk is full" in full.err
    monkeypatch.setattr(Writer, "write", original)
    output = done("eigs", features, "-o", tmp_path / "e.zarr", *EIGS)
    assert array_bytes(output) == array_bytes(done("eigs", features, "-o", tmp_path / "whole.zarr", *EIGS))


def test_sizes_read_as_people_write_them() -> None:
    assert parse_size("8G") == parse_size("8GB") == parse_size("8 gib".replace(" ", "")) == 8 * 10**9
    assert parse_size("1.5M") == 1_500_000
    for wrong in ("", "many", "-1G", "inf"):
        with pytest.raises(UsageError):
            parse_size(wrong)
