"""A program's help: what it does, its presets and config groups, and every key with what it means (`meanings`)."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from llamatrain.config import presets
from llamatrain.config.compose import compose_dict
from llamatrain.config.meanings import choices_of, groups, meanings
from llamatrain.config.presets import load_preset, yaml_name

DRY_RUN = "--dry-run"
NEEDED = "???"
KEY_WIDTH = 34  # columns of `key=value`; a longer one has its meaning on the next line


def help_text(program: str, about: str, plans: bool = False, parallel: bool = False) -> str:
    """Return a program's help, as wide as the terminal; `about` is what it does."""
    width = shutil.get_terminal_size((100, 24)).columns
    used = groups(program)
    options = ["--help", "--cfg job (print the composed configuration)"]
    options += [f"dry_run=true or {DRY_RUN}[=RANKS] (print the plan, for this many ranks)"] if plans else []
    options += ["ranks=N (this many processes on this machine)"] if parallel else []
    options += ["--multirun (a,b: one run for each value)"] if any(group == "run" for group, _, _ in used) else []
    lines = [*_paragraphs(about, width), "", f"Usage: llamatrain {program} [preset=NAME] [key=value ...]", ""]
    lines += _wrapped("Options: ", ",  ".join(options), width)
    ready = _presets_of(program)
    if ready:
        lines += ["", *_wrapped("Presets: ", ", ".join(ready), width)]
    if used:
        lines += ["", "Config groups (group=choice; the default is marked):"]
        for group, at, default in used:
            shown = ", ".join(f"{choice}*" if choice == default else choice for choice in choices_of(group))
            lines += _wrapped(f"  {f'{group}@{at}' if at else group:<12} ", shown, width)
    told = meanings(program)
    values = dict(_leaves(compose_dict(program), told))
    needed = [key for key, value in values.items() if value == NEEDED]
    if needed:
        lines += ["", "Keys that need a value:"]
        for key in needed:
            lines += _key(key, "", told, width)
    # A program's own keys first: those of its groups are the same in every program.
    shared = {at or group for group, at, _ in used}
    others = sorted((key for key in values if key not in needed), key=lambda key: key.partition(".")[0] in shared)
    if others:
        lines += ["", "Keys:"]
        for key in others:
            lines += _key(key, _shown(values[key]), told, width)
    return "\n".join(lines)


def _presets_of(program: str) -> list[str]:
    """Return the presets that say something of a program, by name."""
    known, name = sorted(presets.known_presets()), yaml_name(program)
    return [preset for preset in known if program == "pipeline" or name in load_preset(preset)]


def _leaves(values: Mapping[str, Any], told: Mapping[str, str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value); a mapping is one value where it has a meaning as a whole."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not (key in told and f"{key}.{next(iter(value))}" not in told):
            yield from _leaves(value, told, f"{key}.")
        else:
            yield key, value


def _shown(value: Any) -> str:
    """Return a value as it can be typed."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).strip()
    text = text.removesuffix("...").strip()
    return text if "'" in text or '"' in text else text.replace(", ", ",")  # a comma in quotes is part of a text


def _paragraphs(text: str, width: int) -> list[str]:
    """Return a docstring as wide as the terminal; what is indented, such as a list, keeps its lines."""
    lines: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        rows = paragraph.splitlines()
        if not any(row.startswith((" ", "|")) for row in rows):
            rows = [" ".join(rows)]
        lines.append("")
        for row in rows:
            further = " " * (len(row) - len(row.lstrip()) + 4) if len(rows) > 1 else ""
            lines += textwrap.wrap(row, width, subsequent_indent=further, break_on_hyphens=False)
    return lines[1:]


def _key(key: str, value: str, told: Mapping[str, str], width: int) -> list[str]:
    """Return the lines of a key: itself as it can be typed, and what it means beside it."""
    start = f"  {f'{key}={value}':<{KEY_WIDTH}}"
    if len(start) <= KEY_WIDTH + 2:
        return _wrapped(f"{start} ", told.get(key, ""), width)
    spaced = start.strip().replace(",", ", ") if len(start) > width else start.strip()
    typed = textwrap.wrap(spaced, width, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False)
    return [*typed, *_wrapped(" " * (KEY_WIDTH + 3), told.get(key, ""), width)]


def _wrapped(start: str, text: str, width: int) -> list[str]:
    """Return a text behind `start`, its further lines indented alike."""
    columns = max(24, width - len(start))
    lines = textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{start if number == 0 else ' ' * len(start)}{line}".rstrip() for number, line in enumerate(lines)]
