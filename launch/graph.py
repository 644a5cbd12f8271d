"""The stage graph of a preset: which programs run, with which overrides, on whose files.

A preset's `stages` maps a stage's name to `{program: sft, set: [overrides]}`. In an override's value `@stage/file` means
that file of another stage's run folder, which makes that stage a parent; `@data/file` means a file below `data.root`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamatrain.errors import UserError

from .programs import PROGRAMS, find, nearest

DATA = "data"  # `@data/...` is no stage: it is the user's data folder
RESERVED = {
    DATA,
    "run",
    "preset",
    "ranks",
    "seed",
    "rerun",
    "confirm_minutes",
    "until",
    "dry_run",
}  # the pipeline's own keys
STAGE = r"[A-Za-z]\w*"
REFERENCE = re.compile(rf"(?<![^\[,{{:='\" ])@({STAGE})((?:/[^\s,\[\]{{}}'\"@]*)?)")


@dataclass(frozen=True)
class Stage:
    """One program run of a pipeline; `overrides` still hold their `@` references."""

    name: str
    program: str
    overrides: tuple[str, ...]
    typed: tuple[str, ...] = ()  # those of them that stood on the command line

    @property
    def parents(self) -> list[str]:
        """The stages whose files this one reads, in the order of mention."""
        found = (name for override in self.overrides for name, _ in references(override))
        return [name for name in dict.fromkeys(found) if name != DATA]


def references(override: str) -> list[tuple[str, str]]:
    """Return the (stage, rest of the path) of every `@` reference in an override's value."""
    return [(match[1], match[2]) for match in REFERENCE.finditer(override.partition("=")[2])]


def resolve(value: Any, folder: Path, data_root: str | None) -> Any:
    """Return a configuration's values with every reference as a path below the pipeline's folder or the data folder."""
    if isinstance(value, dict):
        return {key: resolve(one, folder, data_root) for key, one in value.items()}
    if isinstance(value, list):
        return [resolve(one, folder, data_root) for one in value]
    if not isinstance(value, str):
        return value

    def path(match: re.Match[str]) -> str:
        return f"{data_root if match[1] == DATA else folder / match[1]}{match[2]}"

    return REFERENCE.sub(path, value)


def read_stages(preset: str, content: dict[str, Any], added: dict[str, list[str]]) -> list[Stage]:
    """Return a preset's stages, parents first, with the user's own overrides added; UserError where the graph is broken."""
    graph = content.get("stages")
    if not isinstance(graph, dict) or not graph:
        raise UserError(f"preset={preset} has no stages: it sets up single programs, not a pipeline")
    stages = [_read_stage(preset, str(name), node, added.get(str(name), [])) for name, node in graph.items()]
    names = [stage.name for stage in stages]
    for stage in stages:
        for parent in stage.parents:
            if parent not in names:
                hint = nearest(parent, names)
                raise UserError(f"stage '{stage.name}' reads @{parent}, which is no stage of preset={preset}{hint}")
    return ordered(stages)


def _read_stage(preset: str, name: str, node: Any, added: list[str]) -> Stage:
    where = f"preset={preset}, stage '{name}'"
    if name in RESERVED or not re.fullmatch(STAGE, name):
        raise UserError(f"{where}: need another name (letters, digits and _, none of {', '.join(sorted(RESERVED))})")
    if not isinstance(node, dict) or not {"program"} <= set(node) <= {"program", "set"}:
        raise UserError(f"{where}: need {{program: NAME, set: [overrides]}}")
    program, overrides = find(str(node["program"])), node.get("set") or []
    if program is None or PROGRAMS[program].group == "Everything at once":
        hint = nearest(str(node["program"]), list(PROGRAMS))
        raise UserError(f"{where}: there is no program '{node['program']}' to run{hint}")
    if not isinstance(overrides, list):
        raise UserError(f"{where}: 'set' must be a list of overrides, got {type(overrides).__name__}")
    return Stage(name, program, (*map(str, overrides), *added), tuple(added))


def ordered(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages with parents before children, otherwise in the order given; UserError where they form a circle."""
    waiting, done = list(stages), dict[str, Stage]()
    while waiting:
        ready = next((stage for stage in waiting if all(parent in done for parent in stage.parents)), None)
        if ready is None:
            raise UserError(f"these stages wait for each other: {', '.join(stage.name for stage in waiting)}")
        waiting.remove(ready)
        done[ready.name] = ready
    return list(done.values())


def split_overrides(arguments: Sequence[str], stages: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Divide the command line into the pipeline's own arguments and each stage's: `sft.optim.lr=1e-3` goes to stage sft.

    `run.*` keys that are not the pipeline's own (name, dir, seed) go to every stage, e.g. `run.wandb.mode=disabled`.
    UserError where a key is of a stage that is not there.
    """
    own: list[str] = []
    staged: dict[str, list[str]] = {name: [] for name in stages}
    for argument in arguments:
        sign, rest = re.fullmatch(r"(\+\+|\+|~|)(.*)", argument, re.S).groups()  # type: ignore[union-attr]
        name, dot, key = rest.partition("=")[0].partition(".")
        if dot and name in staged:
            staged[name].append(sign + rest[len(name) + 1 :])
        elif name == "run" and key not in ("name", "dir", "seed", ""):
            for overrides in staged.values():
                overrides.append(argument)
        elif dot and stages and name not in RESERVED and re.fullmatch(STAGE, name):
            hint = nearest(name, list(stages))
            raise UserError(f"{argument}: there is no stage '{name}'{hint}  (stages: {', '.join(stages)})")
        else:
            own.append(argument)
    return own, staged
