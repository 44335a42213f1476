"""aligncut: visual concepts shared by deep networks, from a shell or a notebook."""

from typing import Any

__version__ = "0.1.0"

LAZY = {
    "ChannelAlignment": "aligncut_cli.api.channel_alignment",
    "NormalizedCut": "aligncut_cli.api.normalized_cut",
    "SpectralTSNE": "aligncut_cli.api.spectral_tsne",
    "open_store": "aligncut_cli.api.tree",
    "run": "aligncut_cli.api.stages",
}
"""Names of the Python API and their modules, imported when a name is first used, so that the package loads at once."""


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *LAZY])
