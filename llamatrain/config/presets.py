"""The YAML files: where they lie, and presets, which hold a list of overrides for each program.

A preset is named, and lies in `./presets/` (the user's own) or in configs/preset/, or it is given by its path.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from llamatrain.errors import UserError, show
from llamatrain.yaml_files import read_yaml

OWN = Path("presets")  # the user's own, below the working folder
YAML = (".yaml", ".yml")


def config_folder() -> Path:
    """Return the folder of the YAML files: beside the package in a checkout, inside it when installed."""
    here = Path(__file__).resolve().parent.parent
    inside = here / "configs"
    return inside if inside.is_dir() else here.parent / "configs"


def yaml_name(program: str) -> str:
    """Return what a program's YAML and its key in presets are called: `reward_evaluate` for `reward.evaluate`."""
    return program.replace(".", "_")


def known_presets() -> dict[str, Path]:
    """Return name -> file of every preset that can be named: the user's own ones, before those that come along."""
    return {path.stem: path for folder in (config_folder() / "preset", OWN) for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """Return the file of a preset that is given by its name or its path; UserError, with those there are, where it is none."""
    path = Path(name) if Path(name).suffix in YAML else known_presets().get(name)
    if path is None or not path.is_file():
        along, own = (
            ", ".join(path.stem for path in _files(folder)) or "none" for folder in (config_folder() / "preset", OWN)
        )
        raise UserError(
            f"preset={name}: no such preset; need one of {along}, in {OWN}/ {own}, or the path of a .yaml file"
        )
    return path


def is_own(name: str) -> bool:
    """Tell whether a preset is a file of the user's, not one of those that come along."""
    return preset_path(name).parent != config_folder() / "preset"


def preset_overrides(program: str, name: str) -> list[str]:
    """Return what preset `name` tells `program`: a list of overrides, put before the user's own."""
    folder = preset_path(name).parent
    return [_beside(folder, str(override)) for override in load_preset(name).get(yaml_name(program)) or []]


def _beside(folder: Path, override: str) -> str:
    """Return an override of a preset; a data file that it names, data=data/mine.yaml, lies below the preset's own folder."""
    key, _, value = override.partition("=")
    return f"data={folder / value}" if key == "data" and value.endswith(YAML) else override


def load_preset(name: str) -> dict[str, Any]:
    """Read a preset by its name or path: program -> overrides.

    UserError where it is anything else: a key that is no program's would be ignored silently.
    """
    return _load(name, preset_path(name).absolute())


@lru_cache
def _load(name: str, path: Path) -> dict[str, Any]:
    preset = read_yaml(path)
    if not isinstance(preset, dict):
        raise UserError(f"preset={name} is not a preset: found {show(preset)}, need `program: [overrides]`")
    if "stages" in preset:
        raise UserError(
            f"preset={name}: `stages` belongs to an earlier version; need values only, `program: [overrides]`"
        )
    programs = [path.stem for path in config_folder().glob("*.yaml")]
    for program, overrides in preset.items():
        if program not in programs:
            near = difflib.get_close_matches(str(program), programs, n=1, cutoff=0.7)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise UserError(f"preset={name} is not a preset: there is no program '{program}'{hint}")
        texts = all(isinstance(override, str) for override in overrides) if isinstance(overrides, list) else False
        if overrides is not None and not texts:
            raise UserError(f"preset={name}: {program} is {show(overrides)}, need a list of overrides like [key=value]")
    return preset


def with_presets(program: str, overrides: Sequence[str]) -> list[str]:
    """Return overrides with those of `preset=NAME`, wherever it stands, before all others."""
    names = [o.split("=", 1)[1] for o in overrides if o.startswith("preset=")]
    own = [o for o in overrides if not o.startswith("preset=")]
    # Hydra lets the last override of a key win: so what was typed, and of several presets the last.
    return [*itertools.chain.from_iterable(preset_overrides(program, name) for name in names), *own]
