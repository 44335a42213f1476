"""Where the command line begins: Ctrl-C is answered while the rest is still being imported."""

from __future__ import annotations

import os
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line."""
    try:
        from aligncut_cli.cli import main as run

        run()
    except KeyboardInterrupt:  # before, or after, `run` could say what that means; nothing had been begun
        os._exit(130)


if __name__ == "__main__":
    main()
