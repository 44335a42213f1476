"""What the report shows of a folder of montages: the overview, since the page draws every photo in its colours too."""

from __future__ import annotations

from aligncut_cli.stages.blocks import Files, PageBlock, describe_folder
from aligncut_cli.store.read import Store

OVERVIEW = "overview"


def describe_render(store: Store, files: Files) -> list[PageBlock]:
    """Show the overview alone."""
    return describe_folder(store, files, only={f"{OVERVIEW}.png"})
