"""Text files on disk, read as what they must hold: text, JSON, JSON lines, YAML. Everything that lies on disk but rows of
data (`llamatrain.data.files`) is read here.

What a file must hold is a type: `dict[str, Any]`, a list or dictionary of a type, a TypedDict, or a dataclass, which is
made. Where the file holds anything else, the error says

    <file> is damaged: <key> is <what was found>, need <what>; <what to do>
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

import yaml

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


class _Fault(Exception):
    """A value is not what is needed."""


def read_text(path: Path, mend: str = "") -> str:
    """Return a UTF-8 file's text; DamagedFileError, ending in `mend`, where it is none. OSError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"not UTF-8 ({error.reason} at byte {error.start})", mend) from error


def read_json(path: Path, kind: type[T], mend: str = "") -> T:
    """Return what a JSON file holds as `kind`; DamagedFileError, ending in `mend`, where it holds anything else."""
    try:
        return as_kind(_parsed(read_text(path, mend)), kind)
    except _Fault as fault:
        raise _damaged(path, str(fault), mend) from fault


def read_lines(
    path: Path, kind: type[T], mend: str = "", bad: Callable[[DamagedFileError], None] | None = None
) -> Iterator[T]:
    """Yield the lines of a JSONL file, each as `kind`.

    A line that holds anything else is a DamagedFileError, or is handed to `bad` and left out. The last one may be cut
    short, by a kill or because it is being written: it is left out without a word.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                made = as_kind(_parsed(_decoded(line)), kind)
            except _Fault as fault:
                if not line.endswith(b"\n"):
                    return
                error = _damaged(path, str(fault), mend, f":{number}")
                if bad is None:
                    raise error from fault
                bad(error)
                continue
            yield made


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds; UserError with the line where it is no YAML or names a key twice."""
    try:
        return yaml.load(read_text(path), Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not YAML: {' '.join(str(error.problem).split())}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML in which no key may stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key.value, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _damaged(path: Path, fault: str, mend: str, line: str = "") -> DamagedFileError:
    return DamagedFileError(f"{path}{line} is damaged: {fault}{mend and '; '}{mend}")


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _Fault(f"not UTF-8 ({error.reason} at byte {error.start})") from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError also of a number with thousands of digits
        raise _Fault(f"not JSON ({error})") from error


# --- values as types ---------------------------------------------------------------------------------------------


def as_kind(value: Any, kind: type[T], key: str = "") -> T:
    """Return a JSON value as `kind`; an error with `key`, what was found and what is needed where it is anything else."""
    made: T = _made(value, kind, key)
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
    if not isinstance(value, accepted) or (isinstance(value, bool) and plain is not bool):
        raise _Fault(f"{key or 'it'} is {show(value)}, need {WORDS[plain]}")


def _float(value: float, key: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _Fault(f"{key} has {len(str(value))} digits, need a number") from None


def _record(value: dict[str, Any], kind: Any, key: str) -> Any:
    """Return an object as a TypedDict, which may hold more, or as a dataclass, which may not."""
    hints, needed = _fields(kind)
    for name in hints:
        if name in needed and name not in value:
            raise _Fault(f"{_below(key, name)} is missing")
    made = {name: _made(value[name], hint, _below(key, name)) for name, hint in hints.items() if name in value}
    if is_typeddict(kind):
        return {**value, **made}
    for name in value:
        if name not in hints:
            raise _Fault(f"{_below(key, name)} is unknown")
    return kind(**made)


@lru_cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the type of every field, and which must be there."""
    if is_typeddict(kind):
        return get_type_hints(kind), kind.__required_keys__
    needed = {f.name for f in fields(kind) if f.init and f.default is MISSING and f.default_factory is MISSING}
    return {f.name: get_type_hints(kind)[f.name] for f in fields(kind) if f.init}, frozenset(needed)


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name
