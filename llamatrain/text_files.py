"""Text files on disk, read as what they must hold: text, JSON, JSON lines. Everything that lies on disk is read here but
YAML (`llamatrain.yaml_files`) and rows of data (`llamatrain.data.files`).

What a file must hold is a type: `dict[str, Any]`, a list or dictionary of a type, a TypedDict, or a dataclass, which is
made. Where the file holds anything else, the error says

    <file> is damaged: <key> is <what was found>, need <what>; <how to mend it>
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, NotRequired, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

from . import heartbeat
from .errors import UserError, show

T = TypeVar("T")

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "an object",
    list: "a list",
}


class DamagedFileError(UserError):
    """A file does not hold what the program that wrote it puts there."""


def read_text(path: Path) -> str:
    """Return a UTF-8 file's text; DamagedFileError where it is none. OSError where it cannot be read."""
    try:
        return _decoded(path.read_bytes())
    except UserError as error:
        raise _damaged(path, error) from error


def read_json(path: Path, kind: type[T], mend: str = "") -> T:
    """Return what a JSON file holds as `kind`; DamagedFileError, ending in `mend`, where it holds anything else."""
    try:
        return as_kind(_parsed(_decoded(path.read_bytes())), kind)
    except UserError as error:
        raise _damaged(path, error, mend) from error


def read_lines(
    path: Path,
    kind: type[T],
    mend: str = "",
    bad: Callable[[DamagedFileError], None] | None = None,
    grows: bool = False,
) -> Iterator[T]:
    """Yield the lines of a JSONL file, each as `kind`.

    A line that holds anything else is a DamagedFileError, or is handed to `bad` and left out. In a file that `grows` a
    last line without its end is left out, too, without a word: it is being written, or a kill cut it short.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            heartbeat.beat("read")
            try:
                made = as_kind(_parsed(_decoded(line)), kind)
            except UserError as error:
                if grows and not line.endswith(b"\n"):  # only a last line can have none
                    return
                damaged = _damaged(path, error, mend, f":{number}")
                if bad is None:
                    raise damaged from error
                bad(damaged)
                continue
            yield made


def _damaged(path: Path, fault: UserError, mend: str = "", line: str = "") -> DamagedFileError:
    return DamagedFileError(f"{path}{line} is damaged: {fault}{mend and '; '}{mend}")


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 ({error.reason} at byte {error.start})") from error


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError also of a number with thousands of digits
        raise UserError(f"not JSON ({error})") from error
    return as_unicode(value, text)


def as_unicode(value: Any, text: str) -> Any:
    """Return what was read from a text; UserError where an escape made half a surrogate pair, which no file takes."""
    if "\\u" in text or "\\U" in text:
        try:
            json.dumps(value, ensure_ascii=False, skipkeys=True, default=str).encode()
        except UnicodeEncodeError:
            raise UserError("not Unicode (it holds half a surrogate pair)") from None
    return value


# --- values as types ---------------------------------------------------------------------------------------------


def as_kind(value: Any, kind: type[T]) -> T:
    """Return a JSON value as `kind`; UserError with the key, what was found and what is needed where it is no such thing."""
    made: T = _made(value, kind, "")
    return made


def _made(value: Any, kind: Any, key: str) -> Any:
    if kind is Any:
        return value
    choices = get_args(kind) if NoneType in get_args(kind) else ()  # X | None
    if choices:
        return None if value is None else _made(value, choices[0], key)
    plain = get_origin(kind) or (dict if is_typeddict(kind) or is_dataclass(kind) else kind)
    _check(value, plain, key)
    if plain is float:
        return _float(value, key)
    if is_dataclass(kind) or is_typeddict(kind):
        return _record(value, kind, key)
    if plain is dict and get_args(kind):
        return {name: _made(item, get_args(kind)[1], _below(key, name)) for name, item in value.items()}
    if plain is list and get_args(kind):
        return [_made(item, get_args(kind)[0], _below(key, str(number))) for number, item in enumerate(value)]
    return value


def _check(value: Any, plain: type, key: str) -> None:
    accepted = (int, float) if plain is float else plain
    # To Python True is an int; in a file it is no number.
    if not isinstance(value, accepted) or (isinstance(value, bool) and plain is not bool):
        raise UserError(f"{key or 'it'} is {show(value)}, need {WORDS[plain]}")


def _float(value: float, key: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"{key} has {len(str(value))} digits, need a number") from None


def _record(value: dict[str, Any], kind: Any, key: str) -> Any:
    """Return an object, which may hold more, as a TypedDict or a dataclass."""
    hints, needed = _fields(kind)
    for name in hints:
        if name in needed and name not in value:
            raise UserError(f"{_below(key, name)} is missing")
    made = {name: _made(value[name], hint, _below(key, name)) for name, hint in hints.items() if name in value}
    return {**value, **made} if is_typeddict(kind) else kind(**made)


@lru_cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the type of every field, and which must be there."""
    if is_typeddict(kind):
        optional = {
            name for name, hint in get_type_hints(kind, include_extras=True).items() if get_origin(hint) is NotRequired
        }  # which __required_keys__ does not see where annotations are texts
        return get_type_hints(kind), kind.__required_keys__ - optional
    needed = {f.name for f in fields(kind) if f.init and f.default is MISSING and f.default_factory is MISSING}
    return {f.name: get_type_hints(kind)[f.name] for f in fields(kind) if f.init}, frozenset(needed)


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
