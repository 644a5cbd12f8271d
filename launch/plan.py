"""What a pipeline would do: every stage's configuration, checked, and whether the stage runs and why.

Writes nothing and says nothing: `launch.pipeline` prints it, and runs it. What is refused here is refused before
anything is touched.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llamatrain import length
from llamatrain.config.compose import check, compose_dict, lengths_given
from llamatrain.config.presets import config_folder
from llamatrain.errors import UserError
from llamatrain.keys import files_read

from .graph import DATA, REFERENCE, Stage, resolve
from .outside import look
from .programs import schemas
from .record import Record, configs_hash, digest, make_record, read_record
from .runs import read_status

# done: nothing to do; perhaps: only if a parent's result comes out differently
Action = Literal["done", "new", "resume", "again", "perhaps"]


@dataclass(frozen=True)
class Place:
    """Where a pipeline's stages lie, and what is alike for all of them."""

    name: str
    folder: Path
    presets: tuple[str, ...]
    data_root: str | None
    seed: int | None


@dataclass(frozen=True)
class Checked:
    """A stage with its composed values, held against its schema; files stand in them as `@stage/file`."""

    stage: Stage
    values: dict[str, Any]
    run: dict[str, Any]  # its `run`, with the pipeline's folder and name in place
    source: str  # hash of all it was composed from
    settings: Any  # values and run as the program's dataclass

    def resolved(self, place: Place) -> dict[str, Any]:
        """Return the values that the stage's program starts from."""
        return {**resolve(self.values, place.folder, place.data_root), "run": self.run}


@dataclass(frozen=True)
class Decision:
    """Whether a stage runs, and why. `old` is what its folder holds, `record` what it would hold."""

    stage: Stage
    action: Action
    why: str
    record: Record
    old: Record | None


# --- configurations ----------------------------------------------------------------------------------------------


def check_stages(stages: Sequence[Stage], place: Place) -> list[Checked]:
    """Compose every stage and hold it against its schema; UserError names the stage and the key."""
    own = [Path(name) for name in place.presets if Path(name).is_file()]
    configs = configs_hash(config_folder(), own)
    found = []
    for stage in stages:
        try:
            found.append(_checked(stage, place, configs))
        except UserError as error:
            raise UserError(f"stage '{stage.name}': {error}") from None
    return found


def _checked(stage: Stage, place: Place, configs: str) -> Checked:
    presets = [f"preset={name}" for name in place.presets]
    overrides = [*presets, *stage.overrides]
    source = digest(json.dumps(["checked", stage.program, overrides, place.seed, configs]))
    old = read_record(place.folder / stage.name)
    if old is not None and old.source == source:
        values = old.composed  # composing takes a tenth of a second, holding against the schema a hundredth
    else:
        values = compose_dict(stage.program, overrides)
        if place.seed is not None:  # of the run, and of a world; a stage's own overrides may say otherwise
            keys = [key for key, there in (("run.seed", "run" in values), ("seed", "seed" in values)) if there]
            overrides = [*presets, *(f"{key}={place.seed}" for key in keys), *stage.overrides]
            values = compose_dict(stage.program, overrides)
    run = {**values["run"], "dir": str(place.folder), "name": stage.name}
    if run["wandb"]["group"] is None:
        run["wandb"] = {**run["wandb"], "group": place.name}
    typed = stage.overrides if length.is_own(place.presets[-1]) else stage.typed
    given = lengths_given(stage.program, [*presets, *typed])
    if given:
        run["given"] = given
    settings: Any = check(stage.program, schemas()[stage.program], {**values, "run": run}, overrides)
    return Checked(stage, values, run, source, settings)


def look_outside(checked: Sequence[Checked], place: Place) -> None:
    """Look at every file that a stage reads and none makes; UserError names the stage and the key."""
    if place.data_root is not None and not Path(place.data_root).is_dir():
        raise UserError(f"data.root={place.data_root}: there is no such folder")
    for one in checked:
        lenient = getattr(one.settings, "bad_rows", "stop") == "skip"
        for key, metadata, value in files_read(one.settings):
            reference = REFERENCE.search(value)
            if reference and reference[1] != DATA:
                continue
            if reference and place.data_root is None:
                raise UserError(
                    f"stage '{one.stage.name}' reads {reference[0]}: need data.root=<the folder of your data>"
                )
            try:
                look(metadata["reads"], resolve(value, place.folder, place.data_root), metadata["made_by"], lenient)
            except UserError as error:
                raise UserError(f"stage '{one.stage.name}': {key}: {error}") from None


# --- decisions ---------------------------------------------------------------------------------------------------


def plan(checked: Sequence[Checked], place: Place, rerun: Collection[str] = ()) -> list[Decision]:
    """Decide about stages in their order, as far as it can be known before any of them runs."""
    decisions: list[Decision] = []
    pending: set[str] = set()
    for one in checked:
        decisions.append(decide(one, place, rerun, pending))
        if decisions[-1].action != "done":
            pending.add(one.stage.name)
    return decisions


def decide(one: Checked, place: Place, rerun: Collection[str], pending: Collection[str] = ()) -> Decision:
    """Decide about one stage; `pending` are the stages that are still to run, whose results are not known."""
    stage, folder = one.stage, place.folder / one.stage.name
    schema, old = schemas()[stage.program], read_record(folder)
    record = make_record(stage.program, schema, one.values, place.folder, place.data_root, old, pending)
    record.parents, record.source = stage.parents, one.source

    def so(action: Action, why: str = "") -> Decision:
        return Decision(stage, action, why, record, old)

    if old is None:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} was not made by a pipeline: move it away, or choose another run.name")
        return so("new", "new")
    changes = record.changes(old, schema)
    if changes:
        more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
        return so("again", "; ".join(changes[:3]) + more)
    done = read_status(folder).get("state") == "done"
    if done and stage.name in rerun:
        return so("again", "as asked by rerun")
    unknown = [parent for parent in stage.parents if parent in pending]
    if unknown:
        return so("perhaps", f"if {' or '.join(unknown)} comes out differently")
    return so("done") if done else so("resume", "resumes where it was interrupted")


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
            + f"\nTake the change back, choose another run.name, or say rerun=[{names}]; nothing was touched"
        )


def cost_minutes(record: Record, folder: Path) -> float:
    """Return the compute that made a stage's folder, in minutes x ranks; a killed one's status knows more than its record."""
    seconds = read_status(folder).get("seconds")
    known = float(seconds) if isinstance(seconds, (int, float)) else 0.0
    return max(record.seconds, known) / 60 * record.ranks
