"""The YAML files: where they lie, and presets, which hold a list of overrides for each program."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from llamatrain.errors import UserError, show
from llamatrain.text_files import read_yaml


def config_folder() -> Path:
    """Return the folder of the YAML files: beside the package in a checkout, inside it when installed."""
    here = Path(__file__).resolve().parent.parent
    inside = here / "configs"
    return inside if inside.is_dir() else here.parent / "configs"


def yaml_name(program: str) -> str:
    """Return what a program's YAML and its key in presets are called: `reward_evaluate` for `reward.evaluate`."""
    return program.replace(".", "_")


def preset_overrides(program: str, name: str) -> list[str]:
    """Return what preset `name` tells `program`: a list of overrides, put before the user's own."""
    return [str(override) for override in load_preset(name).get(yaml_name(program)) or []]


@lru_cache
def load_preset(name: str) -> dict[str, Any]:
    """Read configs/preset/<name>.yaml, or a file of the user's own given by its path: program -> overrides.

    UserError where it is anything else: a key that is no program's would be passed over without a word.
    """
    own, folder = Path(name), config_folder() / "preset"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    path = own if own.suffix in (".yaml", ".yml") else folder / f"{name}.yaml"
    if not path.is_file() or (path != own and name not in known):
        raise UserError(f"preset={name}: no such preset; there are {', '.join(known)}, or give a path to a .yaml file")
    preset = read_yaml(path)
    if not isinstance(preset, dict):
        raise UserError(f"preset={name} is no preset: found {show(preset)}, need `program: [overrides]`")
    if "stages" in preset:
        raise UserError(
            f"preset={name}: `stages` is of an earlier version; a preset holds values only, `program: [overrides]`"
        )
    programs = [path.stem for path in config_folder().glob("*.yaml")]
    for program, overrides in preset.items():
        if program not in programs:
            near = difflib.get_close_matches(str(program), programs, n=1, cutoff=0.7)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise UserError(f"preset={name} is no preset: '{program}' is no program{hint}")
        texts = all(isinstance(override, str) for override in overrides) if isinstance(overrides, list) else False
        if overrides is not None and not texts:
            raise UserError(f"preset={name}: {program} is {show(overrides)}, need a list of overrides like [key=value]")
    return preset


def with_presets(program: str, overrides: Sequence[str]) -> list[str]:
    """Return overrides with those of `preset=NAME`, wherever it stands, before all others."""
    names = [o.split("=", 1)[1] for o in overrides if o.startswith("preset=")]
    own = [o for o in overrides if not o.startswith("preset=")]
    return [*itertools.chain.from_iterable(preset_overrides(program, name) for name in names), *own]
