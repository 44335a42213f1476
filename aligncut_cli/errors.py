"""Error types, each with its exit code; the library raises them, the command line turns them into exits."""

from __future__ import annotations


class AlignCutError(Exception):
    """An error that a user can act on.

    what : one line, what went wrong, naming the file, array or option
    why  : the reason, where it is not obvious
    do   : what to do about it, ending with the command to type where there is one
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", do: str = "") -> None:
        super().__init__("\n".join(part for part in (what, why, do) if part))
        self.what, self.why, self.do = what, why, do

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary with all three parts."""
        return _rebuild, (type(self), self.what, self.why, self.do)


def _rebuild(kind: type[AlignCutError], what: str, why: str, do: str) -> AlignCutError:
    return kind(what, why=why, do=do)


class UsageError(AlignCutError, ValueError):
    """An option or argument that cannot be meant (exit 2)."""

    exit_code = 2


class BadInput(AlignCutError, ValueError):
    """An input that is missing, of the wrong kind, corrupt or inconsistent (exit 3)."""

    exit_code = 3


class OutputInTheWay(AlignCutError):
    """The output exists with other parameters, or another process writes it (exit 4)."""

    exit_code = 4


class OutOfResources(AlignCutError):
    """Too little memory or disk (exit 5)."""

    exit_code = 5


class Stopped(BaseException):
    """SIGTERM; what was finished is kept (exit 143). Like Ctrl-C it passes every `except Exception` of a library."""
