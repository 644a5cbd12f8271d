"""A program's configuration: composed by Hydra from configs/ and overrides, and held against the program's dataclass.

Hydra only composes: it changes no folder, sets up no logging, writes nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf

from llamatrain import atomic, length
from llamatrain.config import presets
from llamatrain.config.explain import composed_by_hydra, explained, missing
from llamatrain.config.options import FROM_FILE
from llamatrain.config.presets import preset_overrides, with_presets, yaml_name
from llamatrain.errors import UserError, show
from llamatrain.yaml_files import read_yaml

C = TypeVar("C")

NOT_GIVEN = "(not given)"


def _hydra(program: str, overrides: Sequence[str], schema: type | None) -> DictConfig:
    """Compose; the schema says only what may be added."""
    path = presets.config_folder() / f"{yaml_name(program)}.yaml"
    if not path.is_file():
        raise UserError(f"no configuration for program '{program}' in {presets.config_folder()}")
    overrides = with_presets(program, overrides)
    own = next((o for o in overrides if re.match(r"[+~]*hydra\b", o)), None)
    if own is not None:
        raise UserError(
            f"'{own}': Hydra only composes the configuration here and has no keys of its own; run.dir sets where runs are kept"
        )
    with explained(program, overrides):
        return composed_by_hydra(program, [*_opened(overrides, schema)])


def _opened(overrides: Sequence[str], schema: type | None) -> Iterator[str]:
    """Yield overrides; those below a mapping, whose names are the user's own, are added: `models.mine.checkpoint=x`."""
    mappings = tuple(f"{name}." for name in _mappings(schema)) if schema is not None else ()
    for override in overrides:
        yield f"++{override}" if mappings and override.startswith(mappings) else override


def _mappings(schema: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a schema whose values are mappings."""
    for name, kind in get_type_hints(schema).items():
        # dict[...], or one of a union's members, as in dict[...] | None.
        if dict in (get_origin(kind), *map(get_origin, get_args(kind))):
            yield f"{prefix}{name}"
        elif is_dataclass(kind):
            yield from _mappings(cast(type, kind), f"{prefix}{name}.")


def compose_dict(program: str, overrides: Sequence[str] = (), schema: type | None = None) -> dict[str, Any]:
    """Compose a program's configuration as a plain dictionary, not held against its schema; `???` stays where needed."""
    config = _hydra(program, overrides, schema)
    with explained(program, overrides):
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def typed(program: str, schema: type, values: Mapping[str, Any], overrides: Sequence[str]) -> DictConfig:
    """Hold composed values against the schema; some may still be missing. Of a key `from` the field is `from_`."""
    with explained(program, overrides, schema):
        config = OmegaConf.create({f"{key}_" if iskeyword(key) else key: value for key, value in values.items()})
        _single_to_list(schema, config)
        # Merged onto the schema: without it OmegaConf would drop a key that is in no dataclass silently.
        return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(schema), config))


def _single_to_list(schema: type, config: DictConfig) -> None:
    """Put a single value into a list where the schema has one: `train=x.jsonl` is `train=[x.jsonl]`."""
    for name, kind in get_type_hints(schema).items():
        if name not in config or OmegaConf.is_missing(config, name):
            continue
        value = config[name]
        if is_dataclass(kind) and isinstance(value, DictConfig):
            _single_to_list(cast(type, kind), value)
        elif get_origin(kind) is list and isinstance(value, str | int | float):
            config[name] = [value]


def compose(program: str, schema: type[C], overrides: Sequence[str] = (), fill: bool = False) -> C:
    """Compose a program's configuration as its dataclass; every mistake is a UserError that names the key.

    With `fill`, texts that the user must give (names, paths) may be missing: they are then NOT_GIVEN.
    """
    values = compose_dict(program, overrides, schema)
    note_given(values, keys_given(program, overrides))
    return check(program, schema, values, overrides, fill)


def keys_given(program: str, overrides: Sequence[str]) -> list[str]:
    """Return which lengths and keys of the model the user gave: in overrides of his own, or in a preset of his own.

    A length that nobody gave is refused where it is absurd, and a model's shape where it is not its checkpoint's.
    """
    names = [o.split("=", 1)[1] for o in overrides if o.startswith("preset=")]
    own = [o for name in names if presets.is_own(name) for o in preset_overrides(program, name)]
    given = set()
    for override in [*own, *overrides]:
        key, _, value = override.lstrip("+").partition("=")
        of_model = key.split(".")[0] == "model"
        if of_model or (key in length.KEYS and value != "null"):  # null leaves a length to another key
            given.add(key)
    return sorted(given)


def note_given(values: dict[str, Any], keys: list[str]) -> None:
    """Note in a program's values which keys the user gave (`keys_given`), where it has a run."""
    if keys and isinstance(values.get("run"), dict):
        values["run"]["given"] = keys


def check(
    program: str, schema: type[C], values: Mapping[str, Any], overrides: Sequence[str] = (), fill: bool = False
) -> C:
    """Return composed values as the program's dataclass; `overrides` are those they came from, for messages."""
    config = typed(program, schema, values, overrides)
    with explained(program, overrides, schema):
        absent = sorted(OmegaConf.missing_keys(config))
        if fill:
            for key in absent:
                OmegaConf.update(config, key, NOT_GIVEN)
        elif absent:
            raise UserError(missing([key.removesuffix("_") for key in absent], program))
        for key, value in _leaves(OmegaConf.to_container(config, resolve=True)):  # YAML reads .nan and .inf as numbers
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{key}={value}: need a finite number")
        return cast(C, OmegaConf.to_object(config))


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of everything that is neither a dictionary nor a list."""
    if not isinstance(node, dict | list):
        yield key, node
        return
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


def write_settings(path: Path, values: Mapping[str, Any]) -> None:
    """Write composed values to a file that `<program> --config=FILE` starts from."""
    atomic.write_text(path, yaml.safe_dump(dict(values), sort_keys=False))


def read_settings(path: Path) -> dict[str, Any]:
    """Return what `write_settings` wrote."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{FROM_FILE}={path}: found {show(values)}, need key: value")
    return values
