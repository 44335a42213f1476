"""What the report shows of an eigs store: how much of each embedding is which slot, and how much which photo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aligncut_cli.stages.blocks import Files, PageBlock, Section, table_block
from aligncut_cli.store.read import Store


def read_shares(store: Store) -> Mapping[str, Mapping[str, Any]]:
    """Return by graph the shares of variance that slot and photo explain; none in stores that do not record them."""
    shares: Mapping[str, Mapping[str, Any]] = store.record.get("summary", {}).get("shares", {})
    return shares


def describe_shares(store: Store, files: Files) -> list[PageBlock]:
    """Return a table with a row per graph."""
    rows = [[graph, share.get("slot"), share.get("photo")] for graph, share in read_shares(store).items()]
    about = (
        "Of the variance of all nodes' rows of eigenvectors, the share that lies between the means of slots (models' "
        "layers), and the share that lies between the means of photos; 0 where all slots, or all photos, have one mean."
    )
    return [
        table_block("Shares of slot and photo", ["graph", "slot share", "photo share"], rows, about=about, open=True)
    ]


SECTION = Section(
    "shares",
    "Slot or photo",
    "What the places of nodes in each space depend on.",
    describe_shares,
    lambda store: store.kind == "eigs" and bool(read_shares(store)),
)
