"""The order in which regions of the brain are shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aligncut_cli.store.kinds.alignment import EVERY_VOXEL

LATE = 10
SUBJECT = re.compile(r"^.*\.(?=[^.]+$)")
"""What stands before a region's name where there are several subjects."""


def order_regions(names: Sequence[str]) -> list[str]:
    """Return regions from early to late: V1, V2, V3, ... by their number, the rest in their order, all voxels last."""

    def number(name: str) -> int:
        found = re.match(r"h?V(\d)", SUBJECT.sub("", name))
        return int(found[1]) if found else LATE + (name == EVERY_VOXEL)

    return sorted(names, key=number)


def place_regions(names: Sequence[str]) -> list[int]:
    """Return the positions of the names in that order."""
    return [list(names).index(name) for name in order_regions(names)]
