"""A program's help: what it does, its config groups and presets, and its keys with what they mean."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

from llamatrain.config import presets
from llamatrain.config.compose import compose_dict
from llamatrain.config.presets import load_preset, yaml_name
from llamatrain.text_files import read_text

DRY_RUN = "--dry-run"


def help_text(program: str, task: Callable[..., None], plans: bool = False) -> str:
    """Return a program's help: what it does, its config groups, and its keys as the commented YAML."""
    folder = presets.config_folder()
    about = (sys.modules[task.__module__].__doc__ or "").strip()
    source = read_text(folder / f"{yaml_name(program)}.yaml")
    used = re.findall(r"^\s+- (?:/)?([\w/]+)(?:@(\S+?))?: *(\S+)", source.split("_self_")[0], re.M)
    lines = [about, "", f"Usage: llamatrain {program} [preset=NAME] [key=value ...]", ""]
    sweep = "   --multirun (a,b: one run for each value)" if any(group == "run" for group, _, _ in used) else ""
    dry = f"   dry_run=true or {DRY_RUN}[=RANKS] (print the plan, for so many ranks)" if plans else ""
    lines += [f"Options: --help   --cfg job (print the composed configuration){dry}{sweep}"]
    every = sorted(path.stem for path in (folder / "preset").glob("*.yaml"))
    ready = [name for name in every if program == "pipeline" or yaml_name(program) in load_preset(name)]
    if ready:
        lines += ["", f"Presets: {', '.join(ready)}"]
    if used:
        lines += ["", "Config groups (group=choice; the default is marked):"]
        for group, package, default in used:
            names = sorted(p.stem for p in (folder / group).glob("*.yaml"))
            shown = ", ".join(f"{n}*" if n == default else n for n in names)
            lines.append(f"  {f'{group}@{package}' if package else group:<12} {shown}")
    lines += ["", "Keys:"]
    for group, package, default in used:
        path = folder / group / f"{default}.yaml"
        if path.is_file():
            values = OmegaConf.to_yaml(OmegaConf.create(compose_dict(program).get(package or group, {})))
            comments = _comments([path, *sorted((folder / group).glob("*.yaml"))])
            lines.append(f"  {package or group}:")
            lines += [f"    {_annotated(line, comments)}" for line in values.splitlines()]
    body = re.sub(r"(?ms)^defaults:.*?^(?=\S)(?<!defaults:)", "", source)
    lines += [f"  {line}".rstrip() for line in body.strip().splitlines()]
    return "\n".join(lines)


def _comments(paths: list[Path]) -> dict[str, str]:
    """Return key -> comment over the files of a group, the first one's first."""
    found: dict[str, str] = {}
    for path in paths:
        for line in read_text(path).splitlines():
            match = re.match(r"\s*(\w+):[^#]*#\s*(.*)", line)
            if match:
                found.setdefault(match[1], match[2])
    return found


def _annotated(line: str, comments: dict[str, str]) -> str:
    key = line.strip().split(":")[0]
    return f"{line:<34} # {comments[key]}" if key in comments else line
