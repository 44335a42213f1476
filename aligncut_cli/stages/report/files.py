"""The files of the report's folder while it is made, and what their names are to the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligncut_cli.viz import page

FOLDERS = ("photos", "thumbs", "data", "tables", "figures")


class PageFolder:
    """The report's folder under construction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make every folder, also those that stay empty."""
        for name in FOLDERS:
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: bytes) -> None:
        """Write a file by its path from the page."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def write_script(self, name: str, value: Any) -> None:
        """Write a script that hands a value to the page under a name."""
        self.write(f"data/{name}.js", page.script(name, value).encode("ascii"))
