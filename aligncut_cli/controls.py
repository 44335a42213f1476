"""Controls: what stood in for the real responses, which everything made from them has to say."""

from __future__ import annotations

from collections.abc import Sequence


def describe_controls(controls: Sequence[str], *, word: str = "control") -> str:
    """Say in a line that these are not the real responses, for a picture that says it in red; empty where they are."""
    return f"{word}, not the real responses: {', '.join(controls)}" if controls else ""


def title_with_controls(title: str, controls: Sequence[str]) -> str:
    """Put that line above the title of a table in text, where capitals stand for the red."""
    return "\n".join(line for line in (describe_controls(controls, word="CONTROL"), title) if line)
