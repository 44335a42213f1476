"""Which device computes: one name resolved in one place."""

from __future__ import annotations

import torch

from aligncut_cli.errors import UsageError

_GPU_SHARE, _GPU_RESERVE = 0.9, 500_000_000


def resolve_device(name: str) -> torch.device:
    """Return the device meant by auto, cpu, cuda or cuda:N.

    raises : UsageError where the name is unknown or that GPU is not there
    """
    if name == "auto":
        return torch.device("cuda" if _has_usable_gpu() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name!r} is not a device", do="Write auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name!r} is not supported", do="Write auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(f"--device {name}: this machine has {count} CUDA device(s)", do="Write --device cpu or auto.")
    return device


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that may be used on a GPU, or None for the CPU, whose memory --max-memory bounds."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # What torch holds without using it is free too; libraries' workspaces and kernels loaded later are not counted.
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(0, int(_GPU_SHARE * (free + idle)) - _GPU_RESERVE)


def _has_usable_gpu() -> bool:
    """Return whether there is a GPU that this build of torch has kernels for."""
    if not torch.cuda.is_available():
        return False
    try:
        return float(torch.zeros(1, device="cuda") + 1) == 1
    except RuntimeError:
        return False
