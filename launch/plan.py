"""What a pipeline would do: every stage's configuration, checked, and whether the stage runs and why.

Writes nothing and says nothing: `launch.pipeline` prints it, and runs it. What is refused here is refused before
anything is touched.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llamatrain import atomic
from llamatrain.config.compose import check, compose_dict, keys_given
from llamatrain.config.presets import config_folder, is_own, preset_path
from llamatrain.config.renamed import older
from llamatrain.errors import UserError
from llamatrain.keys import files_read, flatten
from llamatrain.run_files import STAGE, STATUS
from llamatrain.runs import read_status

from .graph import DATA, REFERENCE, TO_COME, Awaited, Stage, references, resolve
from .outside import look
from .programs import PROGRAMS, nearest, schema_of
from .record import VALUE, Record, configs_hash, digest, make_record, read_record

# done: nothing to do; perhaps: only if a parent's result comes out differently; wait: for people's file
Action = Literal["done", "new", "resume", "again", "perhaps", "wait"]


@dataclass(frozen=True)
class Place:
    """Where a pipeline's stages lie, and what is alike for all of them."""

    name: str
    folder: Path
    presets: tuple[str, ...]
    data_root: str | None
    seed: int | None


@dataclass(frozen=True)
class Planned:
    """A stage with its composed values; files of other stages stand in them as `@stage/file`."""

    name: str
    program: str
    values: dict[str, Any]
    run: dict[str, Any]  # its `run`, with the pipeline's folder and name in place
    source: str  # hash of all it was composed from
    awaited: dict[str, Awaited]  # by the path of the file that it waits for

    @property
    def parents(self) -> list[str]:
        """The stages whose files this one reads, in the order of mention."""
        return list(dict.fromkeys(references(self.values)))

    def resolved(self, place: Place) -> dict[str, Any]:
        """Return the values that the stage's program starts from."""
        return {**resolve(self.values, place.folder, place.data_root), "run": {**self.run, "dir": str(place.folder)}}

    def missing(self, place: Place) -> dict[str, Awaited]:
        """Return which of the awaited files are not there yet."""
        return {
            path: awaited
            for path, awaited in self.awaited.items()
            if not Path(resolve(path, place.folder, place.data_root)).exists()
        }


@dataclass(frozen=True)
class Decision:
    """Whether a stage runs, and why. `old` is what its folder holds, `record` what it would hold."""

    stage: Planned
    action: Action
    why: str
    record: Record
    old: Record | None


# --- configurations ----------------------------------------------------------------------------------------------


Composed = dict[tuple[str, ...], dict[str, Any]]  # program and overrides -> values


def compose(stage: Stage, presets: Sequence[str], seed: int | None, known: Composed) -> dict[str, Any]:
    """Return a stage's values: its program's and the presets', then the seed, what the graph sets, and what was typed.

    `known` remembers what the stages of a program have in common: composing it takes a tenth of a second.
    """
    typed = [override.lstrip("+~").partition("=")[0] for override in stage.overrides]
    # What was typed is in it already: below, the graph's settings must not undo it.
    source = (stage.program, *(f"preset={name}" for name in presets), *stage.overrides)
    if source not in known:
        known[source] = compose_dict(stage.program, source[1:], schema_of(stage.program))
    values = deepcopy(known[source])
    for key, value in stage.settings.items():
        # A part typed of what the graph sets whole (one of the evaluated models, say) would vanish under it, or stay alone.
        below = next((one for one in typed if one.startswith(f"{key}.")), None)
        if below is not None:
            raise UserError(f"{below}: the graph sets {key} as a whole; give all of it, or none")
        if key not in typed:
            values[key] = value
    for node, name in ((values.get("run"), "run.seed"), (values, "seed")):  # of the run, and of a world
        if seed is not None and node is not None and "seed" in node and name not in typed:
            node["seed"] = seed
    return values


def plan_stages(stages: Sequence[Stage], awaited: Mapping[str, Awaited], place: Place) -> list[Planned]:
    """Compose every stage, hold it against its schema, look at every file it reads and none makes.

    UserError names the stage and the key.
    """
    own = [preset_path(name) for name in place.presets if is_own(name)]
    configs = configs_hash(config_folder(), own)
    if place.data_root is not None and not Path(place.data_root).is_dir():
        raise UserError(f"data.root={place.data_root}: there is no such folder")
    # First all stages' own values, which name a mistake in the command; only then the files, which may be slow to look at.
    found, known = list[tuple[Planned, Any]](), Composed()
    for stage in stages:
        try:
            found.append(_planned(stage, awaited, place, configs, known))
            _check_references(found[-1][0], {one.name: one.program for one, _ in found[:-1]}, stages)
        except UserError as error:
            raise UserError(f"stage '{stage.name}': {error}") from None
    for one, settings in found:
        try:
            _look_outside(one, settings, place)
        except UserError as error:
            raise UserError(f"stage '{one.name}': {error}") from None
    return [one for one, _ in found]


def _planned(
    stage: Stage, awaited: Mapping[str, Awaited], place: Place, configs: str, known: Composed
) -> tuple[Planned, Any]:
    """Return a stage with its values, and those as the program's dataclass."""
    overrides = [*(f"preset={name}" for name in place.presets), *stage.overrides]
    source = digest(json.dumps(["planned", stage.program, stage.settings, overrides, place.seed, configs]))
    old = read_record(place.folder / stage.name)
    if old is not None and old.source == source:
        values = old.composed  # composing takes a tenth of a second, holding against the schema a hundredth
    else:
        values = compose(stage, place.presets, place.seed, known)
    run = {**values["run"], "dir": str(place.folder), "name": stage.name}
    if run["wandb"]["group"] is None:
        run["wandb"] = {**run["wandb"], "group": place.name}
    given = keys_given(stage.program, overrides)
    if given:
        run["given"] = given
    settings: Any = check(stage.program, schema_of(stage.program), {**values, "run": run}, overrides)
    named = {parts["path"] for value in flatten(values).values() if (parts := VALUE.fullmatch(str(value)))}
    waits = {path: what for path, what in awaited.items() if path in named}
    return Planned(stage.name, stage.program, values, run, source, waits), settings


def _check_references(one: Planned, before: Mapping[str, str], stages: Sequence[Stage]) -> None:
    """Refuse to read what no stage before this one makes; `before` are those, with their programs."""
    texts = [value for value in flatten(one.values).values() if isinstance(value, str)]
    for text in texts:
        for match in REFERENCE.finditer(text):
            parent, file = match[1], match[2].lstrip("/")
            if parent == DATA:
                continue
            if parent not in before:  # which holds earlier stages alone: so no circle can be
                names = [stage.name for stage in stages]
                after = ", which runs after it" if parent in names else ", which is no stage of this pipeline"
                raise UserError(f"reads @{parent}{after}{'' if parent in names else nearest(parent, names)}")
            makes = PROGRAMS[before[parent]].makes
            known = (*makes, "", "best", "checkpoints") if "final" in makes else makes
            if file.partition("/")[0] not in known:
                hint = nearest(file, list(makes)) or f" ({', '.join(filter(None, makes))})"
                raise UserError(f"reads @{parent}/{file}, but {before[parent]} makes no such file{hint}")


def _look_outside(one: Planned, settings: Any, place: Place) -> None:
    """Look at every file that a stage reads and no stage makes; UserError names the key."""
    lenient, missing = getattr(settings, "bad_rows", "stop") == "skip", one.missing(place)
    for key, metadata, value in files_read(settings):
        reference, parts = REFERENCE.search(value), VALUE.fullmatch(value)
        # What a stage makes is not there yet, nor what people are waited for, or what no role names.
        if (reference and reference[1] != DATA) or (parts and parts["path"] in missing) or TO_COME.match(value):
            continue
        if reference and place.data_root is None:
            raise UserError(f"reads {reference[0]}: need data.root=<the folder of your data>")
        try:
            look(metadata["reads"], resolve(value, place.folder, place.data_root), metadata["made_by"], lenient)
        except UserError as error:
            raise UserError(f"{key}: {error}") from None


# --- decisions ---------------------------------------------------------------------------------------------------


def plan(stages: Sequence[Planned], place: Place, rerun: Collection[str] = ()) -> list[Decision]:
    """Decide about stages in their order, as far as it can be known before any of them runs."""
    decisions: list[Decision] = []
    pending: set[str] = set()
    waiting: dict[str, str] = {}  # stage -> people's file that it needs, itself or through one that it reads
    for one in stages:
        decision = decide(one, place, rerun, pending)
        through = next((parent for parent in one.parents if parent in waiting), None)
        if decision.action == "wait":
            file = next(iter(one.missing(place)))
            if file in waiting.values():  # what is to be in it has been said
                decision = replace(decision, why=f"waits for {file}")
            waiting[one.name] = file
        elif decision.action == "new" and through is not None:
            waiting[one.name] = waiting[through]
            decision = replace(decision, action="wait", why=f"waits for {waiting[through]}, through {through}")
        decisions.append(decision)
        if decision.action != "done":
            pending.add(one.name)
    return decisions


def decide(one: Planned, place: Place, rerun: Collection[str], pending: Collection[str] = ()) -> Decision:
    """Decide about one stage; `pending` are the stages that are still to run, whose results are not known."""
    folder = place.folder / one.name
    schema, old = schema_of(one.program), read_record(folder)
    record = make_record(one.program, schema, one.values, place.folder, place.data_root, old, pending)
    record.parents, record.source = one.parents, one.source

    def so(action: Action, why: str = "") -> Decision:
        return Decision(one, action, why, record, old)

    state = read_status(folder).get("state")
    # A stage that waited left its status there before it had a record; a kill as either was written, a part of it.
    parts = {atomic.beside(folder / name) for name in (STAGE, STATUS)}
    if old is None and state != "waiting" and folder.exists() and not parts.issuperset(folder.iterdir()):
        raise UserError(f"{folder} was not made by a pipeline: move it away, or choose another run.name")
    missing = one.missing(place)
    if missing:
        return so("wait", "; ".join(f"waits for {path}: {one.told(place.folder)}" for path, one in missing.items()))
    if old is None:
        return so("new", "new")
    changes = record.changes(old, schema)
    if changes:
        more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
        return so("again", "; ".join(changes[:3]) + more)
    done = state == "done"
    if done and one.name in rerun:
        return so("again", "requested by rerun")
    unknown = [parent for parent in one.parents if parent in pending]
    if unknown:
        return so("perhaps", f"only if the output of {' or '.join(unknown)} changes")
    return so("done") if done else so("resume", "resumes where it was interrupted")


def refuse_older(stages: Sequence[Stage | Planned], place: Place, rerun: Collection[str]) -> None:
    """Refuse to go on from results of an earlier version, whose keys and rows had other names, but those in `rerun`."""
    found: dict[str, str] = {}  # stage -> what shows that an earlier version made it
    for one in stages:
        old = None if one.name in rerun else read_record(place.folder / one.name)
        why = older(old.program, [*old.config, *old.composed]) if old is not None else ""
        if why:
            found[one.name] = why
    names = list(found)
    if names:
        raise UserError(
            f"{place.folder} was made by an earlier version (of '{names[0]}' {found[names[0]]}): choose another run.name, or "
            f"say rerun=[{','.join([*rerun, *names])}]; nothing was touched"
        )


def refuse_costly(decisions: Sequence[Decision], place: Place, rerun: Collection[str], confirm_minutes: float) -> None:
    """Refuse to replace what took more than `confirm_minutes` of compute (minutes x ranks) and is not named in `rerun`."""
    told = []
    for decision in decisions:
        if decision.action in ("again", "perhaps") and decision.old is not None and decision.stage.name not in rerun:
            minutes = cost_minutes(decision.old, place.folder / decision.stage.name)
            if minutes > confirm_minutes:
                told.append((decision.stage.name, f"{decision.stage.name} ({minutes:,.0f} minutes): {decision.why}"))
    if told:
        names = ",".join([*rerun, *(name for name, _ in told)])
        raise UserError(
            "these stages hold results of more than "
            f"confirm_minutes={confirm_minutes:g} (minutes x ranks) and would run again:\n  "
            + "\n  ".join(line for _, line in told)
            + f"\nUndo the change, choose another run.name, or give rerun=[{names}]; nothing was touched"
        )


def cost_minutes(record: Record, folder: Path) -> float:
    """Return the compute that made a stage's folder, in minutes x ranks; a killed one's status knows more than its record."""
    seconds = read_status(folder).get("seconds")
    known = float(seconds) if isinstance(seconds, (int, float)) else 0.0
    return max(record.seconds, known) / 60 * record.ranks
