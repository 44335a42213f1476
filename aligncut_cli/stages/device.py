"""The device of a run: chosen once, so that a worker computes on the kind that the run was begun with."""

from __future__ import annotations

import torch

from aligncut_cli.maths.device import resolve_device
from aligncut_cli.store.run import Work


def settle_device(work: Work) -> torch.device:
    """Return the device that --device means here; a worker takes the kind that the first process has resolved.

    raises : UsageError where it is unknown or not there
    """
    kind = work.settle("device", lambda: resolve_device(work.options.device).type)
    named = work.options.device if work.options.device.partition(":")[0] == kind else kind
    return resolve_device(named)
