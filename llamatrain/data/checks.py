"""What a value must be by its type: a text in valid Unicode, a number, one of some words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, get_args, get_origin

Role = Literal["user", "assistant"]
Check = Callable[[Any], str | None]  # what is needed instead, or None


def _string(value: Any) -> str | None:
    if not isinstance(value, str):
        return "a text"
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return "valid Unicode (it has an unpaired surrogate)"
    return None


def nonempty(value: Any) -> str | None:
    """Return what is needed instead of a value that is no text or an empty one."""
    return _string(value) or (None if value.strip() else "non-empty text")


def _bool(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _integer(value: Any) -> str | None:
    return None if isinstance(value, int) and not isinstance(value, bool) else "a whole number"


def _number(value: Any) -> str | None:
    fine = (
        isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) != float("inf")
    )
    return None if fine else "a number"


def share(value: Any) -> str | None:
    """Return what is needed instead of a value that is no number in [0, 1]."""
    return None if _number(value) is None and 0 <= value <= 1 else "a number in [0, 1]"


def _object(value: Any) -> str | None:
    return None if isinstance(value, dict) else "an object"


def _anything(value: Any) -> str | None:
    return None


CHECKS: dict[Any, Check] = {
    str: _string,
    bool: _bool,
    int: _integer,
    float: _number,
    dict: _object,
    Any: _anything,
}


@dataclass(frozen=True)
class Field:
    """What a kind says of one of its fields; `ends` is the role that speaks last in its messages."""

    check: Check
    required: bool
    ends: Role | None = None


def field_of(hint: Any, required: bool) -> Field:
    """Return what the type of a field says of it."""
    if get_origin(hint) is NotRequired:
        return field_of(get_args(hint)[0], False)
    if get_origin(hint) is Annotated:
        (mark,) = hint.__metadata__
        return Field(_anything, required, ends=mark) if mark in get_args(Role) else Field(mark, required)
    if get_origin(hint) is Literal:
        return Field(_one_of(get_args(hint)), required)
    return Field(CHECKS[get_origin(hint) or hint], required)


def _one_of(values: tuple[str, ...]) -> Check:
    return lambda value: None if value in values else "one of " + ", ".join(values)
