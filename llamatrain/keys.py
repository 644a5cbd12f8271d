"""What a key of a program's settings is, beside its type: which values it takes, whether it can change a result, and
what it reads.

It stands with the field, as `micro_batch_size: int = field(metadata=SPEED)` or `train: list[str] =
field(metadata=reads("dialogue"))`, and is said nowhere else. A key without such a word can change the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from .errors import UserError

SPEED = {"changes": "speed and memory only"}
MEASURES = {"changes": "what is measured only"}
KEEPS = {"changes": "what is kept and shown only"}


def reads(what: str, made_by: str = "") -> dict[str, str]:
    """Return the metadata of a key that names a file: rows of a kind, or a checkpoint, corpus, tokenizer, world, file.

    `made_by` is the program that a missing one's error names.
    """
    return {"reads": what, "made_by": made_by}


def formerly(value: Any) -> dict[str, Any]:
    """Return the metadata of a key that came later: runs that do not record it did as with this value.

    So an upgrade neither reruns what is finished nor refuses to resume what is not.
    """
    return {"formerly": value}


def least(low: float, most: float | None = None) -> dict[str, Any]:
    """Return the metadata of a number that is at least `low` and, where given, at most `most`."""
    return {"least": low} | ({} if most is None else {"most": most})


def above(low: float, below: float | None = None, most: float | None = None) -> dict[str, Any]:
    """Return the metadata of a number above `low` and, where given, below another or at most another."""
    return {"above": low} | ({} if below is None else {"below": below}) | ({} if most is None else {"most": most})


def one_of(choices: Iterable[Any]) -> dict[str, Any]:
    """Return the metadata of a key that takes one of some values."""
    return {"choices": tuple(choices)}


SHARE = {"least": 0, "below": 1}  # of a whole of which something else must be left


def check_values(settings: Any, prefix: str = "") -> None:
    """Hold each value of a dataclass against what its field's metadata allows; UserError names the first that is not.

    None stands where its type has it. `prefix` is where the settings stand in a program's, such as "optim.".
    """
    for field in fields(settings):
        value, allowed = getattr(settings, field.name), field.metadata
        if value is None:
            continue
        if "choices" in allowed and value not in allowed["choices"]:
            raise UserError(f"{prefix}{field.name}={value}: need one of {', '.join(map(str, allowed['choices']))}")
        inside = (
            ("least" not in allowed or value >= allowed["least"])
            and ("most" not in allowed or value <= allowed["most"])
            and ("above" not in allowed or value > allowed["above"])
            and ("below" not in allowed or value < allowed["below"])
        )
        if not inside:
            optional = ", or null" if "None" in str(field.type) else ""
            raise UserError(f"{prefix}{field.name}={value}: need {_range(allowed)}{optional}")


def _range(allowed: Mapping[str, Any]) -> str:
    least, most, above, below = (allowed.get(name) for name in ("least", "most", "above", "below"))
    if most is None and below is None:
        return f"{least} or more" if least is not None else f"a number above {above}"
    if least is None:
        return f"a number between {above} and {below}" if most is None else f"a number above {above}, at most {most}"
    return f"a number in [{least}, {most}]" if most is not None else f"a number in [{least}, {below})"


@cache
def harmless(schema: type, stops_early: bool = False) -> frozenset[str]:
    """Return the dotted keys that cannot change what a program of this schema makes, beyond rounding.

    Of a run that `stops_early` by what is measured, what is measured can.
    """
    found, types = set(), get_type_hints(schema)
    for field in fields(schema):
        # Every word there is one of what does not reach the result.
        if "changes" in field.metadata and not (stops_early and field.metadata["changes"] == MEASURES["changes"]):
            found.add(field.name)
        elif is_dataclass(types[field.name]):
            found |= {f"{field.name}.{key}" for key in harmless(types[field.name], stops_early)}
    return frozenset(found)


@cache
def former_values(schema: type) -> Mapping[str, Any]:
    """Return dotted key -> value of all that is `formerly` in a schema."""
    found, types = dict[str, Any](), get_type_hints(schema)
    for field in fields(schema):
        if "formerly" in field.metadata:
            found[field.name] = field.metadata["formerly"]
        elif is_dataclass(types[field.name]):
            found |= {f"{field.name}.{key}": value for key, value in former_values(types[field.name]).items()}
    return found


def completed(schema: type, flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return an earlier version's flat configuration with the keys that it did without, as it did (`formerly`)."""
    groups = {key[: end + 1] for key in flat for end, letter in enumerate(key) if letter == "."}
    absent = {k: v for k, v in former_values(schema).items() if k not in flat and f"{k}." not in groups}
    return {**flat, **flatten(absent)}


def filled(schema: type, values: dict[str, Any]) -> dict[str, Any]:
    """Return an earlier version's nested configuration with the keys that it did without, as it did (`formerly`)."""
    found = dict(values)
    types = get_type_hints(schema)
    for field in fields(schema):
        if is_dataclass(types[field.name]):
            found[field.name] = filled(types[field.name], found.get(field.name, {}))
        elif "formerly" in field.metadata:
            found.setdefault(field.name, field.metadata["formerly"])
    return found


def to_dict(settings: Any) -> dict[str, Any]:
    """Return a dataclass of settings as plain dictionaries and lists."""
    return asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else dict(settings)


def flatten(values: Mapping[str, Any] | list[Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value for every leaf; items of lists are numbered."""
    found: dict[str, Any] = {}
    for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
        if isinstance(value, (Mapping, list)) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def decisive(schema: type, flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a flat configuration's keys that can change the result; items of lists and names count as keys."""
    known = harmless(schema, flat.get("run.patience") is not None)

    def stands(key: str) -> bool:
        parts = key.split(".")
        return any(".".join(parts[:count]) in known for count in range(1, len(parts) + 1))

    return {key: value for key, value in flat.items() if not stands(key)}


def changed(schema: type, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, before, now) of what can change the result and does; for a key that `old` lacks see `formerly`."""
    types = get_type_hints(schema)
    for field in fields(schema):
        name = field.name
        if "changes" in field.metadata:
            continue
        before, now = old.get(name, field.metadata.get("formerly")), new[name]
        if is_dataclass(types[name]) and isinstance(now, Mapping) and isinstance(before, Mapping | None):
            for key, one, other in changed(types[name], before or {}, now):
                yield f"{name}.{key}", one, other
        elif before != now and (name in old or "formerly" in field.metadata):  # an earlier version did without it
            yield name, before, now


def files_read(settings: Any, prefix: str = "") -> Iterator[tuple[str, Mapping[str, str], str]]:
    """Yield (dotted key, the metadata of `reads`, value) of every file that some settings name."""
    for field in fields(settings):
        key, value = f"{prefix}{field.name}", getattr(settings, field.name)
        if "reads" in field.metadata:
            for one in value if isinstance(value, list) else [value]:
                if one is not None:
                    yield key, field.metadata, one
        elif is_dataclass(value):
            yield from files_read(value, f"{key}.")
        elif isinstance(value, dict):
            for name, one in value.items():
                if is_dataclass(one):
                    yield from files_read(one, f"{key}.{name}.")
