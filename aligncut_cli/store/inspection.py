"""Refuses workers that cannot do a job: other versions, files they do not see, no such device, too little memory."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from aligncut_cli import machine
from aligncut_cli.console import readable_bytes
from aligncut_cli.errors import OutOfResources, UsageError
from aligncut_cli.store.provenance import installed_software
from aligncut_cli.store.worker import Portrait


def require_able(
    answers: Mapping[str, Any], device: str, needed: int, *, count: int, room: int | None = None
) -> list[str]:
    """Refuse workers that would fail or compute something else, all of them by name.

    answers : of `portray` by worker; an error where it could not even be asked
    device  : kind of device that the job is for
    needed  : bytes of memory per worker
    count   : of workers
    room    : bytes after which the tightest of them would be stopped
    returns : warnings
    raises  : UsageError, OutOfResources
    """
    failed = {name: answer for name, answer in answers.items() if not isinstance(answer, Portrait)}
    if failed:
        raise UsageError(
            "workers cannot load aligncut:\n" + _list(f"{name}: {error!s:.200}" for name, error in failed.items()),
            do="Install the same version for them: pip install 'aligncut[cluster]'.",
        )
    portraits: Sequence[Portrait] = list(answers.values())
    _require_versions(portraits)
    _require_sight(portraits)
    without = [worker.name for worker in portraits if not worker.device]
    if without:
        raise UsageError(
            f"workers without the device {device!r} that this run is for:\n{_list(without)}",
            do="Start workers with it, one per GPU by CUDA_VISIBLE_DEVICES, or give --device cpu.",
        )
    if room is not None and needed > room:
        raise OutOfResources(
            f"a worker needs about {readable_bytes(needed)} of memory, and one of them is stopped at "
            f"{readable_bytes(room)}",
            do="Start workers with more, as by --memory-limit 8GB, or ask for less: a smaller --n-sample.",
        )
    _require_room(portraits, needed, count=count)
    ours = machine.processor(device)
    others = sorted({f"{worker.host}: {worker.processor}" for worker in portraits if worker.processor != ours})
    if others:
        return [
            f"workers have other processors than this one ({ours}), so sums may round otherwise: {', '.join(others)}"
        ]
    return []


def _require_versions(portraits: Sequence[Portrait]) -> None:
    ours = {**installed_software(), "python": platform.python_version()}
    lines = []
    for worker in portraits:
        differing = [
            f"{name} {worker.software.get(name, 'missing')} instead of {ours.get(name, 'none')}"
            for name in sorted({*ours, *worker.software})
            if worker.software.get(name) != ours.get(name)
        ]
        if differing:
            lines.append(f"{worker.name}: {', '.join(differing)}")
    if lines:
        raise UsageError(
            "workers have other versions than this process, whose results may differ:\n" + _list(lines),
            do="Install the same versions for all, then start the workers again.",
        )


def _require_sight(portraits: Sequence[Portrait]) -> None:
    blind = [f"{worker.name}: {worker.hidden[0]}" for worker in portraits if worker.hidden]
    if blind:
        raise UsageError(
            f"workers do not see files of this run:\n{_list(blind)}",
            do="Give inputs and -o on a file system that all of them share, under the same path.",
        )


def _require_room(portraits: Sequence[Portrait], needed: int, *, count: int) -> None:
    """Refuse more workers on a host than its memory holds."""
    hosts: dict[str, list[Portrait]] = defaultdict(list)
    for worker in portraits:
        hosts[worker.host].append(worker)
    for host, workers in hosts.items():
        number = count if len(portraits) == 1 else len(workers)
        free = min(worker.memory for worker in workers)
        if number * needed > free:
            raise OutOfResources(
                f"{number} workers on {host} need about {readable_bytes(number * needed)} of memory, "
                f"{readable_bytes(needed)} each, and {readable_bytes(free)} may be used there",
                do=f"Start {max(1, free // max(1, needed))} there, or ask for less, such as a smaller --n-sample.",
            )


def _list(lines: Any) -> str:
    shown = [f"  {line}" for line in lines]
    more = [f"  and {len(shown) - 5} more"] if len(shown) > 5 else []
    return "\n".join([*shown[:5], *more])
