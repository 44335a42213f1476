"""Names single tokens on the command line: IMAGE:ROW,COL, counted from 0 on the grid of patches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aligncut_cli.errors import UsageError
from aligncut_cli.store.nodes import ModelAxes


@dataclass(frozen=True)
class TokenPlace:
    """One patch of one image.

    image : position in the store
    """

    image: int
    row: int
    column: int

    def token(self, model: ModelAxes) -> int:
        """Return the token's index in a model's sequence, the class token counted."""
        return self.row * model.grid[1] + self.column + int(model.class_token)


def parse_token(text: str, ids: Sequence[str], model: ModelAxes) -> TokenPlace:
    """Read IMAGE:ROW,COL; IMAGE is an id, which may hold colons."""
    match = re.fullmatch(r"(.+):(\d+),(\d+)", text)
    if match is None:
        raise UsageError(f"{text!r} does not name a token", do="Write IMAGE:ROW,COL, such as cat:6,7, from 0.")
    name, row, column = match[1], int(match[2]), int(match[3])
    if name not in ids:
        near = ", ".join(list(ids)[:3])
        raise UsageError(f"{text!r}: there is no image {name!r}", do=f"The images are {near}, ...: see images/id.")
    if row >= model.grid[0] or column >= model.grid[1]:
        raise UsageError(
            f"{text!r} lies outside the {model.grid[0]} x {model.grid[1]} patches of {model.name}",
            do=f"Rows go from 0 to {model.grid[0] - 1}, columns to {model.grid[1] - 1}.",
        )
    return TokenPlace(list(ids).index(name), row, column)
