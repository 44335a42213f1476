"""What a stage's parameters are made of: knobs with default, help and bounds, checked wherever they come from."""

from __future__ import annotations

import math
import types
from collections.abc import Hashable
from dataclasses import Field, dataclass, field, fields
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from aligncut_cli.errors import UsageError

T = TypeVar("T")


def knob(
    default: T, help: str, *, at_least: float | None = None, at_most: float | None = None, flag: str | None = None
) -> T:
    """Declare one parameter: its default, its help line, its bounds, and its flag where that is not its name."""
    value: T = field(default=default, metadata={"help": help, "min": at_least, "max": at_most, "flag": flag})
    return value


@dataclass(frozen=True, kw_only=True)
class StageParams:
    """What changes a stage's result; values out of bounds raise UsageError, from the command line or from Python."""

    seed: int = knob(0, "Seed of every random choice; the same seed gives the same bytes.", at_least=0)

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]
        for item in fields(self):
            value = getattr(self, item.name)
            for single in value if isinstance(value, tuple) else (value,):
                _check(item, hints[item.name], single)


@cache
def _hints(params: Hashable) -> dict[str, Any]:
    return get_type_hints(params)


def flag_of(item: Field[Any]) -> str:
    """Return how a parameter is written on the command line."""
    return str(item.metadata["flag"] or "--" + item.name.replace("_", "-")).partition("/")[0]


def _check(item: Field[Any], hint: Any, value: Any) -> None:
    """Refuse a value of another type than declared, not among the choices, not finite, or out of bounds."""
    if get_origin(hint) is tuple:
        hint = get_args(hint)[0]
    choices = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if value is None and type(None) in choices:
        return
    flag = flag_of(item)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UsageError(
                f"{flag} {value}: there is no such choice", do=f"Choose one of: {', '.join(get_args(hint))}."
            )
        return
    kinds = tuple(int | float if kind is float else kind for kind in choices if kind is not type(None))
    if not any(isinstance(value, kind) for kind in kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UsageError(f"{flag} {value!r}: expected {' or '.join(getattr(k, '__name__', str(k)) for k in kinds)}")
    if isinstance(value, bool | str):
        return
    low, high = item.metadata["min"], item.metadata["max"]
    if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
        bounds = [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""]
        raise UsageError(f"{flag} {value}: give a number {' and '.join(filter(None, bounds)) or 'that is finite'}")
