"""All kinds of stores by name, and the names that no model may have because they are groups of some kind's own."""

from __future__ import annotations

from aligncut_cli.store.kinds import alignment, decoding, eigs, features, segments, transitions, tsne
from aligncut_cli.store.kinds.base import Kind

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(features.KIND, alignment.KIND, eigs.KIND, tsne.KIND),
        *(segments.KIND, transitions.KIND, decoding.KIND),
    )
}


def reserved_names() -> frozenset[str]:
    """Return what stands beside the models at the root of some kind that has groups of models."""
    return frozenset().union(*(kind.groups for kind in KINDS.values() if kind.has_models))
