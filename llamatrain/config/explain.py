"""What Hydra and OmegaConf raise on a user's values, in one line that names the key, the value and the need."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llamatrain.config import presets
from llamatrain.config.meanings import meanings
from llamatrain.config.presets import yaml_name
from llamatrain.config.renamed import now_called
from llamatrain.errors import UserError, show

NEEDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "text"}
HOME = "the shell does not expand this ~: need the full path, or $HOME"


def composed_by_hydra(program: str, overrides: Sequence[str]) -> DictConfig:
    """Compose a program's YAML and overrides; whatever Hydra raises is raised."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(presets.config_folder()), version_base="1.3"):
        return hydra_compose(yaml_name(program), overrides=list(overrides))


@contextmanager
def explained(program: str, overrides: Sequence[str], schema: type | None = None) -> Iterator[None]:
    """Turn whatever Hydra and OmegaConf raise on the user's values into a UserError.

    Hydra's own errors are not all of it: a group that is a number ends in a TypeError, an integer of thousands of digits
    in a ValueError.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(in_words(error, program, overrides, schema)) from error


def missing(keys: list[str], program: str) -> str:
    """Return which keys need a value, each with what it means."""
    told = meanings(program)
    return f"llamatrain {program}: need a value for {'; '.join(f'{key} ({told[key]})' if key in told else key for key in keys)}"


def in_words(error: Exception, program: str, overrides: Sequence[str], schema: type | None = None) -> str:
    """Turn Hydra's and OmegaConf's errors into one line that names the key, the value and the need."""
    cause = error.__cause__ or error
    text = str(cause).strip() or str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    key = getattr(cause, "full_key", None) or getattr(error, "full_key", None)
    unknown = re.search(r"Key '([^']+)' (?:is not in struct|not in '([^']+)')", text)
    if unknown:
        return _unknown_key(str(key or unknown[1]), program, schema)
    # Of a name that a group bears, too: here it may be no group, but a key with values in the program's own YAML.
    group = re.match(r"Could not override '([^']+)'\. No match in the defaults list", text)
    if group:
        key = group[1]
        if key not in _known_keys(program, schema):
            return _unknown_key(key, program, schema)
    choice = re.search(
        r"Could not find '([^']+)/([^'/]+)'\s*Available options in '[^']+':\s*(.*?)\s*Config search", str(error), re.S
    )
    if choice:
        return f"{choice[1]}={choice[2]}: no such choice; there are {', '.join(choice[3].split())}"
    unread = getattr(error, "override", None)
    if unread:
        why = HOME if re.search(r"[=,\[]~", str(unread)) else first
        return f"'{unread}' cannot be parsed as an override: {why}"
    if not isinstance(error, HydraException | OmegaConfBaseException):  # it does not say what it is about
        culprit = _culprit(program, overrides)
        return f"llamatrain {program}: {first}" if culprit is None else f"{show(culprit)} cannot be taken: {first}"
    several = re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", first)
    if several:
        return f"{several[1]}: several values, need --multirun, which makes one run for each"
    if "Could not find" in str(error) or "Could not load" in str(error):
        return f"llamatrain {program}: " + " ".join(str(error).split())
    if key:
        given = next((o.split("=", 1)[1] for o in reversed(overrides) if o.lstrip("+").startswith(f"{key}=")), None)
        value = f"={given}" if given is not None else ""
        if "Incompatible value 'None'" in first:
            first = "need a value"
        if "is not a valid bool" in first:
            first = f"need {NEEDS['Boolean']}"
        if group or "Invalid type assigned" in first:
            first = f"need keys of its own, like {key}.KEY=VALUE"
        if "is not a ListConfig" in first:
            first = "need a list, like [a,b]"
        first = re.sub(
            r"Value '.*' of type '\w+' could not be converted to (\w+)",
            lambda m: f"need {NEEDS.get(m[1], m[1])}",
            first,
        )
        return f"{key}{value}: {first}"
    return f"llamatrain {program}: {first}"


def _unknown_key(name: str, program: str, schema: type | None) -> str:
    """Return the line on a key that a program does not have: what it is called now, or the nearest there is."""
    known = _known_keys(program, schema)
    new = now_called(program, name)
    if new in known:
        return f"unknown key '{name}' for llamatrain {program}: it is now called '{new}'"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7) or _same_leaf(name, known)
    hint = f"; the nearest is '{near[0]}'" if near else ""
    return f"unknown key '{name}' for llamatrain {program}{hint} (see `llamatrain {program} --help`)"


def _culprit(program: str, overrides: Sequence[str]) -> str | None:
    """Return the override at which Hydra stumbles by itself."""
    for override in reversed(overrides):  # the user's own come last
        try:
            composed_by_hydra(program, [override])
        except Exception:
            return override
    return None


def _same_leaf(name: str, known: list[str]) -> list[str]:
    leaf = name.split(".")[-1]
    leaves = {k.split(".")[-1]: k for k in known}
    return [leaves[n] for n in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.8)]


def _known_keys(program: str, schema: type | None) -> list[str]:
    keys: list[str] = []

    def visit(node: Any, prefix: str) -> None:
        for name, value in node.items():
            keys.append(f"{prefix}{name}")
            if isinstance(value, dict):
                visit(value, f"{prefix}{name}.")

    visit(OmegaConf.to_container(composed_by_hydra(program, [])), "")
    if schema is not None:
        keys.extend(f.name for f in fields(cast(Any, schema)) if f.name not in keys)
    return keys
