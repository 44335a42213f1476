"""Which device computes: one name resolved in one place."""

from __future__ import annotations

import torch

from aligncut_cli.errors import UsageError


def resolve_device(name: str) -> torch.device:
    """Return the device meant by auto, cpu, cuda or cuda:N.

    raises : UsageError where the name is unknown or that GPU is not there
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
    """Return the bytes free on a GPU, or None for the CPU, whose memory --max-memory bounds."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(device)[0])
