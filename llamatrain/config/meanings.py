"""The keys of programs and what they mean, read from configs/ as text: nothing is composed.

A key's meaning and unit is the comment beside its value there; its type and whether it can change a result stand with its
field (`llamatrain.keys`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from llamatrain.config import presets
from llamatrain.config.presets import yaml_name
from llamatrain.text_files import read_text

GROUP = re.compile(r"^\s+- (?:/)?([\w/]+)(?:@(\S+?))?: *(\S+)", re.M)  # in `defaults`: group, where it stands, choice


@lru_cache
def meanings(program: str) -> dict[str, str]:
    """Return dotted key -> what it means and its unit, for all keys of a program: the comments in its YAML files.

    Of a group the program's own file has the first word, then the choice that it has by default, then the others.
    """
    folder = presets.config_folder()
    found = comments(folder / f"{yaml_name(program)}.yaml")
    for group, at, default in groups(program):
        files = [folder / group / f"{default}.yaml", *sorted((folder / group).glob("*.yaml"))]
        for path in files if files[0].is_file() else []:
            for key, text in comments(path).items():
                found.setdefault(f"{at or group}.{key}", text)
    return found


def comments(path: Path) -> dict[str, str]:
    """Return dotted key -> the comment beside it in a YAML file."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []  # indentation and key of what the line stands in
    for line in read_text(path).splitlines():
        match = re.match(r"( *)(\w+):(?: [^#]*)?(?:#\s*(.*))?$", line)
        if match is None:
            continue
        indentation = len(match[1])
        above = [*(outer for outer in above if outer[0] < indentation), (indentation, match[2])]
        if match[3]:
            found[".".join(key for _, key in above)] = match[3]
    return found


def groups(program: str) -> list[tuple[str, str, str]]:
    """Return (group, where it stands if not under its name, the choice by default) of a program's config groups."""
    source = read_text(presets.config_folder() / f"{yaml_name(program)}.yaml")
    return GROUP.findall(source.split("_self_")[0]) if "_self_" in source else []


def choices_of(group: str) -> list[str]:
    """Return the names that a config group can be set to."""
    return sorted(path.stem for path in (presets.config_folder() / group).glob("*.yaml"))
