"""A pipeline's graph: which programs run, on whose files. A function builds it (`launch.graphs`), stage by stage.

A stage exists before it is read, so no circle can be. In its settings `@stage/file` is a file of another stage's run
folder, which makes that stage a parent; `@data/file` is one below `data.root`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamatrain.data.kinds import EXAMPLES
from llamatrain.errors import UserError

from .programs import find, nearest, override, typed

DATA = "data"  # `@data/...` is no stage: it is the user's data folder
STAGE = r"[A-Za-z]\w*"
TO_COME = re.compile(r"<data\.\w+>")  # stands for the files of a role that names none yet, where nothing is run
REFERENCE = re.compile(rf"(?<![^\[,{{:='\" ])@({STAGE})((?:/[^\s,\[\]{{}}'\"@]*)?)")


@dataclass(frozen=True)
class Stage:
    """One program run of a pipeline: what the graph sets, and what the user said of it."""

    name: str
    program: str
    settings: Mapping[str, Any]  # key -> plain value, files of other stages as `@stage/file`
    overrides: tuple[str, ...] = ()  # typed on the command line; they win over the settings

    def __truediv__(self, file: str) -> str:
        return f"@{self.name}/{file}"

    def __str__(self) -> str:
        return f"@{self.name}"

    @property
    def final(self) -> str:
        """The checkpoint it ends with."""
        return self / "final"


@dataclass(frozen=True)
class Awaited:
    """A file that people make: what is to be in it, and the settings of `collect`, whose page they make it on."""

    what: str
    page: dict[str, str]

    def told(self, folder: Path) -> str:
        """Return what is to be in it, of a pipeline in this folder."""
        return str(resolve(self.what, folder, None))

    def command(self, folder: Path) -> str:
        """Return the command of the page, as it can be typed; nothing where there is none."""
        settings = [override(key, resolve(value, folder, None)) for key, value in self.page.items()]
        return typed(["collect", *settings]) if settings else ""


@dataclass
class Graph:
    """Stages in an order in which they can run."""

    stages: dict[str, Stage] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # what is not done for lack of data, a line each
    awaited: dict[str, Awaited] = field(default_factory=dict)  # by the file's path
    _prefix: str = ""

    def add(self, program: str, name: str | None = None, /, **settings: Any) -> Stage:
        """Add a stage, named after its program; settings that are None are left to the program."""
        name = self._prefix + (name or program)
        assert name not in self.stages, name
        given = {key: _plain(value) for key, value in settings.items() if value is not None}
        self.stages[name] = stage = Stage(name, program, given)
        return stage

    @contextmanager
    def round(self, number: int) -> Iterator[None]:
        """Name the stages that are added meanwhile `v<number>_...`, also where there is one round only."""
        self._prefix = f"v{number}_"
        yield
        self._prefix = ""

    def leave_out(self, what: str, need: str) -> None:
        """Note what is not done, and which data it would need."""
        self.left_out.append(f"{what}: need {need}")

    def further(self) -> list[str]:
        """Return in lines what is not done, and what rows of the missing data need."""
        needed = " ".join(self.left_out)
        lines = [f"left out: {line}" for line in self.left_out]
        lines += [f"a row of data.{kind}s: {row}" for kind, row in EXAMPLES.items() if f"data.{kind}s" in needed]
        if "data.ratings" in needed:
            lines.append(
                "data.ratings=FOLDER: comparisons are sampled, and v1_preferences.jsonl of them is waited for there"
            )
        return lines

    def wait_for(self, path: str, what: str, **page: str) -> str:
        """Return the path of a file that people make while the pipeline waits: on a page of `collect`, with its settings."""
        self.awaited[path] = Awaited(what, page)
        return path


def _plain(value: Any) -> Any:
    if isinstance(value, Stage):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


# --- references --------------------------------------------------------------------------------------------------


def references(value: Any) -> Iterator[str]:
    """Yield the stages whose files are named in a value, at any depth."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from references(one)
    elif isinstance(value, str):
        yield from (match[1] for match in REFERENCE.finditer(value) if match[1] != DATA)


def resolve(value: Any, folder: Path, data_root: str | None) -> Any:
    """Return a configuration's values with every reference as a path below the pipeline's folder or the data folder."""

    def path(match: re.Match[str]) -> str:
        return f"{data_root if match[1] == DATA else folder / match[1]}{match[2]}"

    return mapped(value, lambda text: REFERENCE.sub(path, text))


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Return a configuration's values with every text changed, at any depth."""
    if isinstance(value, dict):
        return {key: mapped(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [mapped(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


# --- the command line --------------------------------------------------------------------------------------------


def split_overrides(arguments: Sequence[str], own: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide the command line into the pipeline's own arguments and those of stages, `NAME.key=value`.

    `own` are the pipeline's keys. `run.*` other than name and dir goes to every stage, e.g. `run.wandb.mode=disabled`.
    """
    mine: list[str] = []
    staged: list[str] = []
    for argument in arguments:
        name, dot, key = argument.lstrip("+~").partition("=")[0].partition(".")
        to_all = name == "run" and key not in ("name", "dir", "seed", "")
        is_staged = dot and (to_all or name not in own)  # without a dot there is no NAME.key
        (staged if is_staged else mine).append(argument)
    return mine, staged


def distributed(
    stages: Sequence[Stage], arguments: Sequence[str], why_absent: Callable[[str], str] = lambda name: ""
) -> list[Stage]:
    """Return the stages with what the user typed: `NAME.key=value` goes to the stage NAME, else to every stage of a program.

    What is said of one stage wins over what is said of a program, and that over `run.key=value`, which goes to all.
    UserError where NAME is neither: with what `why_absent` says of it, or else the nearest name.
    """
    names = {stage.name for stage in stages}
    programs = {spelt: s.program for s in stages for spelt in (s.program, s.program.replace(".", "_"))}
    known = sorted(["run", *names, *programs], key=len, reverse=True)  # `reward.evaluate` before `reward`
    # Stage -> overrides by rank: of all stages, of its program, of itself. Hydra lets the last one of a key win.
    found: dict[str, list[list[str]]] = {stage.name: [[], [], []] for stage in stages}
    for argument in arguments:
        body = argument.lstrip("+~")
        sign = argument.removesuffix(body)  # Hydra's + and ~ stand before the name: they go on with the key
        name = next((one for one in known if body.startswith(f"{one}.")), body.partition("=")[0].partition(".")[0])
        if name == "run":
            chosen, rank, override = list(names), 0, argument
        else:
            chosen = [name] if name in names else [s.name for s in stages if s.program == programs.get(name)]
            rank, override = 2 if name in names else 1, sign + body[len(name) + 1 :]
        if not chosen:
            raise UserError(f"{argument}: {why_absent(name) or _unknown(name, names, set(programs))}")
        for one in chosen:
            found[one][rank].append(override)
    made = []
    for stage in stages:
        general, of_program, own = found[stage.name]
        made.append(Stage(stage.name, stage.program, stage.settings, (*general, *of_program, *own)))
    return made


def _unknown(name: str, names: set[str], programs: set[str]) -> str:
    program = find(name)
    if program is not None:
        return f"no stage of this pipeline runs '{program}'"
    hint = nearest(name, sorted(names | programs))
    return f"there is no stage and no program '{name}'{hint}  (stages: {', '.join(sorted(names))})"
