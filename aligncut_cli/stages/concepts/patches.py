"""The patches nearest to each concept's centre: a table of where they are, and a sheet of what they look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aligncut_cli.stages.concepts.members import Members
from aligncut_cli.stages.patches import Centres, cut_patch
from aligncut_cli.stages.photos import Photos
from aligncut_cli.store.folder import write_csv
from aligncut_cli.viz.sheet import Row, draw_sheet
from aligncut_cli.viz.style import FigureStyle

MOST_SLOTS = 2
"""Slots that a row of patches names."""


@dataclass(frozen=True, order=True)
class NearPatch:
    """A patch near a centre; the nearest sorts first.

    distance : squared
    image    : position in the store
    token    : position among the patches
    slot     : position among the slots asked for
    """

    distance: float
    image: int
    token: int
    slot: int


def find_nearest(members: Members, n_concepts: int) -> Iterator[list[NearPatch]]:
    """Give for each concept the patches nearest to its centre over all slots, each from another image."""
    found: list[list[NearPatch]] = [[] for _ in range(n_concepts)]
    for slot, near in enumerate(members.load_slots()):
        for concept, patches in enumerate(found):
            columns = (near.distance[concept], near.image[concept], near.token[concept])
            rows = zip(*(column.tolist() for column in columns), strict=True)
            patches += [NearPatch(distance, image, token, slot) for distance, image, token in rows if image >= 0]
    for patches in found:
        by_image: dict[int, NearPatch] = {}
        for patch in sorted(patches):
            by_image.setdefault(patch.image, patch)
        yield list(by_image.values())


def draw_patches(
    folder: Path,
    members: Members,
    centres: Centres,
    counts: Sequence[int],
    photos: Photos,
    *,
    n_patches: int,
    style: FigureStyle,
    controls: Sequence[str],
) -> None:
    """Write patches.csv and a sheet of patches; a row says once which slots its patches are of.

    counts    : (concept,) members of each concept
    n_patches : at most so many of each
    """
    sheet, table = [], []
    for concept, nearest in enumerate(find_nearest(members, len(centres.places))):
        tiles, shown = [], []
        for patch in nearest[:n_patches]:
            slot = members.slots[patch.slot]
            model = members.source.axes[slot.model]
            row, column = divmod(patch.token, model.grid[1])
            shown.append(style.slot(str(slot)))
            tiles.append((photos.id(patch.image), cut_patch(photos, patch.image, row, column, model)))
            inside = patch.distance <= centres.radius**2
            name, distance = photos.id(patch.image), float(np.sqrt(patch.distance))
            table.append([concept, str(slot), name, row, column, distance, int(inside)])
        slots = [slot for slot, _ in Counter(shown).most_common(MOST_SLOTS)]
        more = len(set(shown)) - len(slots)
        named = ", ".join(slots) + (f" and {more} more" if more else "")
        sheet.append(Row(f"concept {concept}\n{counts[concept]:,} tokens\n{named}", tiles))
    header = ["concept", "slot", "image", "row", "column", "distance", "inside"]
    write_csv(folder / "patches.csv", header, table, controls=controls)
    title = "patches nearest to each concept's centre"
    draw_sheet(sheet, title=title, style=style, controls=controls).save(style.file(folder, "patches"))
