"""What a job may use of the machine, under made-up cgroups, SLURM and affinity."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aligncut_cli import machine
from aligncut_cli.params import RunOptions
from aligncut_cli.store.resources import memory_limit

GB = 2**30


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 processors and 500 GB free without any limit; returns its root."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    write(tmp_path / "proc" / "meminfo", f"MemTotal: 9 kB\nMemAvailable: {500 * GB // 1024} kB\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_limits_all_is_used(world: Path) -> None:
    assert (machine.memory_limit(), machine.cpu_count()) == (500 * GB, 64)
    machine.limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ


def test_the_tightest_of_nested_groups_of_version_2_holds(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(world / "proc" / "self" / "cgroup", "0::/slurm/job_7/step_0\n")
    group = world / "cgroup" / "slurm" / "job_7"
    write(group / "step_0" / "memory.max", "max\n")
    write(group / "step_0" / "cpu.max", "max 100000\n")
    write(group / "memory.max", f"{8 * GB}\n")
    write(group.parent / "memory.max", f"{64 * GB}\n")
    write(group / "cpu.max", "350000 100000\n")
    assert (machine.memory_limit(), machine.cpu_count()) == (8 * GB, 4)
    assert memory_limit(RunOptions(output=Path("x"))) == 8 * GB
    assert memory_limit(RunOptions(output=Path("x"), max_memory="1G")) == 10**9
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    machine.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "4"


def test_in_a_container_the_path_is_the_hosts_and_the_root_is_ours(world: Path) -> None:
    write(world / "proc" / "self" / "cgroup", "0::/docker/abc\n")
    write(world / "cgroup" / "memory.max", f"{2 * GB}\n")
    write(world / "cgroup" / "cpu.max", "50000 100000\n")
    assert (machine.memory_limit(), machine.cpu_count()) == (2 * GB, 1)


def test_groups_of_version_1_have_a_tree_for_each_controller(world: Path) -> None:
    write(world / "proc" / "self" / "cgroup", "5:memory:/a/b\n4:cpu,cpuacct:/c\n1:name=systemd:/d\n")
    write(world / "cgroup" / "memory" / "a" / "b" / "memory.limit_in_bytes", str(2**63 - 4096))
    write(world / "cgroup" / "memory" / "a" / "memory.limit_in_bytes", str(3 * GB))
    write(world / "cgroup" / "cpu,cpuacct" / "c" / "cpu.cfs_quota_us", "-1")
    write(world / "cgroup" / "cpu,cpuacct" / "c" / "cpu.cfs_period_us", "100000")
    assert (machine.memory_limit(), machine.cpu_count()) == (3 * GB, 64)
    write(world / "cgroup" / "cpu,cpuacct" / "c" / "cpu.cfs_quota_us", "200000")
    assert machine.cpu_count() == 2


def test_slurm_and_affinity_count(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "4096")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert (machine.memory_limit(), machine.cpu_count()) == (4 * GB, 6)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5})
    assert machine.cpu_count() == 2
    monkeypatch.delenv("SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1024")
    assert machine.memory_limit() == 6 * GB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of the node
    monkeypatch.delenv("SLURM_MEM_PER_CPU")
    assert machine.memory_limit() == 500 * GB


FAULTS = """
import resource
import numpy as np
from aligncut_cli import machine

told = machine.keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    for array in [np.empty(12 * 2**20, np.uint8) for _ in range(8)]:
        array[::4096] = 1
    del array
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], check=True, stdout=subprocess.PIPE, text=True)
    told, faults = done.stdout.split()
    if told != "True":
        pytest.skip("this C library cannot be told")
    # Eight arrays have 24,576 pages, and thirty times as many where all are fresh each time.
    assert int(faults) < 3 * 24_576
