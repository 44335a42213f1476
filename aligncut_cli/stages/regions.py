"""The order in which regions of the brain are shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

LATE = 10
SUBJECT = re.compile(r"^.*\.(?=[^.]+$)")
"""What stands before a region's name where there are several subjects."""


def order_regions(names: Sequence[str]) -> list[str]:
    """Return regions from early to late: V1, V2, V3, ... by their number, then the rest in their order."""

    def number(name: str) -> int:
        found = re.match(r"h?V(\d)", SUBJECT.sub("", name))
        return int(found[1]) if found else LATE

    return sorted(names, key=number)


def place_regions(names: Sequence[str]) -> list[int]:
    """Return the positions of the names in that order."""
    return [list(names).index(name) for name in order_regions(names)]
