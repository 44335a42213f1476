"""What this process may use of the machine, under cgroups, SLURM and affinity, and that it keeps what it has used."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
# glibc's mallopt: names from malloc.h, and the largest threshold that it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_KEPT = 32 * 2**20
_MOST_FREE_KEPT = 256 * 2**20


def memory_limit() -> int:
    """Return the bytes of memory that may be used: the least of what is free, and of what the job is allowed."""
    limits = [_available_memory(), *_slurm_memory()]
    for folder in _own_cgroups("memory"):
        limits += _read_numbers(folder / "memory.max", folder / "memory.limit_in_bytes")
    return min(limits)


def cpu_count() -> int:
    """Return how many processors may be used, at least 1: by affinity, the cgroup's quota and SLURM."""
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    limits: list[float] = [count, *_environment("SLURM_CPUS_PER_TASK")]
    for folder in _own_cgroups("cpu"):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()
            limits.append(float(quota) / float(period))  # "max" is no number
        quotas = _read_numbers(folder / "cpu.cfs_quota_us")
        periods = _read_numbers(folder / "cpu.cfs_period_us")
        limits += [quota / period for quota, period in zip(quotas, periods, strict=False)]
    return max(1, math.ceil(min(limits)))


def limit_threads() -> None:
    """Have numerical libraries start no more threads than that; they know of affinity, and of no quota.

    It counts for libraries that are imported afterwards, and leaves an OMP_NUM_THREADS of the user's alone.
    """
    if cpu_count() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(cpu_count()))


def keep_freed_memory() -> bool:
    """Have the C library hand out again what was freed, up to 256 MB of it; say whether it could be told.

    Work goes block by block, and the arrays of a block are as large as those of the one before. By itself glibc gives
    arrays of megabytes back to the system at once, and each new one then costs a page fault per 4 kB. One arena for
    all threads, as what a reading thread frees is otherwise kept for that thread. Arrays above 32 MB are given back
    as ever. It counts from here on; other C libraries are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST_KEPT), (_TRIM_THRESHOLD, _MOST_FREE_KEPT), (_ARENA_MAX, 1))
    taken = [mallopt(name, value) == 1 for name, value in settings]  # all of them, whatever the first says
    return all(taken)


def _own_cgroups(controller: str) -> Iterator[Path]:
    """Give the folder of this process's group and of every group around it; the tightest of their limits holds.

    controller : of version 1, where each has a tree of its own; version 2 has one for all
    """
    with contextlib.suppress(OSError):
        for line in (PROC / "self" / "cgroup").read_text().splitlines():
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" and not controllers:
                root = CGROUPS
            elif controller in controllers.split(","):
                root = CGROUPS / controllers
                root = root if root.is_dir() else CGROUPS / controller
            else:
                continue
            own = root / path.lstrip("/")
            # In a container the path may be the host's, and its own group is then the root.
            yield from (folder for folder in (own, *own.parents) if folder == root or root in folder.parents)


def _read_numbers(*paths: Path) -> list[int]:
    """Return the limits that files hold; version 1 writes none as a number beyond all memory, or below 0."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(path.read_text()))
    return [number for number in found if 0 < number < 2**60]


def _slurm_memory() -> list[int]:
    """Return what SLURM grants on this node, which it gives in MB; 0 means all of it."""
    granted = _environment("SLURM_MEM_PER_NODE")
    for per_cpu in _environment("SLURM_MEM_PER_CPU"):
        counts = [*_environment("SLURM_CPUS_ON_NODE"), *_environment("SLURM_CPUS_PER_TASK")]
        granted += [per_cpu * count for count in counts[:1]]
    return [megabytes * 2**20 for megabytes in granted]


def _environment(name: str) -> list[int]:
    text = os.environ.get(name, "")
    return [int(text)] if text.isdecimal() and int(text) > 0 else []


def _available_memory() -> int:
    """Return the bytes of memory that can be taken without swapping."""
    with contextlib.suppress(OSError, ValueError):
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def pinned_threads() -> int:
    """Return the threads of numerical libraries that every worker of a run takes: OMP_NUM_THREADS, or 1."""
    return (_environment("OMP_NUM_THREADS") or [1])[0]


def pin_threads(count: int) -> None:
    """Have numerical libraries use so many threads in this thread, those that are loaded and those to come."""
    import threadpoolctl
    import torch

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    threadpoolctl.threadpool_limits(count)
    torch.set_num_threads(count)


@contextlib.contextmanager
def undisturbed_imports() -> Iterator[None]:
    """Keep the garbage collector from going through all that is being imported: it saves a sixth of torch's import."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def has_device(kind: str) -> bool:
    """Return whether this process sees a device of a kind, cpu or cuda."""
    import torch

    return kind == "cpu" or (kind == "cuda" and torch.cuda.is_available())


def visible_gpus(device: str = "auto") -> list[str]:
    """Return how CUDA_VISIBLE_DEVICES names each GPU that this process may use, or the one that `cuda:N` means."""
    names = _name_gpus()
    kind, _, index = device.partition(":")
    return [names[int(index)]] if kind == "cuda" and index.isdigit() and int(index) < len(names) else names


def _name_gpus() -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def processor(kind: str) -> str:
    """Name what computes on a kind of device, as far as results depend on it."""
    import torch

    if kind == "cuda" and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
