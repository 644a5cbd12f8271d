"""The plans of a program or of a pipeline's stages, in their order: each reads what those before it will have made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from llamatrain.config.compose import check, compose_dict
from llamatrain.errors import UserError
from llamatrain.given import Given
from llamatrain.hardware import Machine
from llamatrain.model.config import ModelConfig
from llamatrain.pace import Pace, pace
from llamatrain.planning import Work

from ..graph import DATA, REFERENCE, Awaited, mapped
from ..plan import Planned
from ..programs import nearest, plans, schema_of
from ..slurm.config import Cluster, Resources, need_of

ABSENT = "to_come"  # stands for files that are not needed to plan
INSTEAD = {"reward.evaluate": "pool", "safety_benchmark": "responses"}  # what some read where there is no checkpoint
LISTS = ("train", "prompts", "sft_train", "documents", "comparisons", "preferences", "probes")

On = Callable[[str, str], Machine]  # program, stage -> what it runs on


def on_cluster(cluster: Cluster, resources: Mapping[str, Resources], at_least: bool = False) -> On:
    """Return what each stage's job runs on, or `at_least`."""

    def on(program: str, stage: str) -> Machine:
        need = need_of(cluster, resources, program, stage)
        return (need.at_least if at_least else need).machine(cluster.hardware)

    return on


@dataclass(frozen=True)
class Estimated:
    """What one stage takes, or several that take the same; without `work` there is nothing to plan."""

    names: tuple[str, ...]
    program: str
    machine: Machine
    work: Work | None = None
    pace: Pace | None = None

    @property
    def name(self) -> str:
        """What they are called together."""
        return self.names[0] if len(self.names) == 1 else f"{self.program} x {len(self.names)}"

    @property
    def fits(self) -> bool:
        """Whether the memory of its devices and their hosts suffices."""
        return self.work is None or self.work.fits(self.machine)

    @property
    def hours(self) -> tuple[float, float]:
        """Hours from its start to its end, from the least to the most, of all of its stages after one another."""
        low, high = self.pace.seconds if self.pace else (0.0, 0.0)
        return len(self.names) * low / 3600, len(self.names) * high / 3600

    @property
    def device_hours(self) -> tuple[float, float]:
        """The hours of all its GPUs, or ranks."""
        return self.hours[0] * self.machine.ranks, self.hours[1] * self.machine.ranks


def estimated(stages: Iterable[tuple[str, str, Any]], given: Given, on: On) -> list[Estimated]:
    """Plan stages (name, program, settings) one after the other; UserError names the stage."""
    planner, found = plans(), list[Estimated]()
    for name, program, settings in stages:
        if program not in planner:
            found.append(Estimated((name,), program, on(program, name)))
            continue
        try:
            made = planner[program](settings, given)
            given.add(name, made.makes)
            work = made if isinstance(made, Work) else None
            machine = on(program, name)
            found.append(Estimated((name,), program, machine, work, pace(work, machine) if work else None))
        except UserError as error:
            raise UserError(f"stage '{name}': {error}") from None
    return found


def grouped(found: Sequence[Estimated]) -> list[Estimated]:
    """Put stages of a program together that take the same."""
    groups: dict[Any, Estimated] = {}
    for one in found:
        key = (one.program, repr(one.machine), one.work and repr(replace(one.work, makes={})))
        before = groups.get(key)
        groups[key] = replace(before, names=(*before.names, *one.names)) if before else one
    return list(groups.values())


# --- a pipeline, a program ---------------------------------------------------------------------------------------


def of_stages(stages: Iterable[Planned], data_root: str | None) -> Iterator[tuple[str, str, Any]]:
    """Yield a pipeline's stages with their settings; files of other stages stand in them as `@stage/file`.

    For ratings that people have still to make stand the comparisons that they rate: there will be no more of them.
    """
    for one in stages:
        values = {**of_data(mapped(one.values, _rated(one.awaited)), data_root), "run": one.run}
        yield one.name, one.program, check(one.program, schema_of(one.program), values)


def _rated(awaited: Mapping[str, Awaited]) -> Callable[[str], str]:
    to_come = [(file, one.page["comparisons"]) for file, one in awaited.items() if one.page and not Path(file).exists()]
    return lambda text: next((new + text.removeprefix(old) for old, new in to_come if text.startswith(old)), text)


def of_data(values: Mapping[str, Any], data_root: str | None) -> dict[str, Any]:
    """Return values with the user's data folder in place."""

    def root(text: str) -> str:
        return REFERENCE.sub(lambda m: f"{data_root}{m[2]}" if m[1] == DATA else m[0], text)

    return dict(mapped(dict(values), root))


def settings_of(program: str, overrides: Sequence[str]) -> Any:
    """Return a program's settings, with stand-ins for files that the user did not name."""
    schema = schema_of(program)
    values = compose_dict(program, overrides, schema)
    first = {one.name: one.metadata["choices"][0] for one in fields(schema) if "choices" in one.metadata}
    for node in (values, values["run"]):
        for key, value in node.items():
            if value == "???":
                node[key] = [ABSENT] if key in LISTS else first.get(key, ABSENT)
    typed = {one.lstrip("+~").partition("=")[0] for one in overrides}
    for key in ("helpfulness", "safety", "tokenizer"):  # of reward models that would be there
        if key in values and values[key] is None and key not in typed:
            values[key] = ABSENT
    for key in LISTS:
        if values.get(key) == []:
            values[key] = [ABSENT]
    if program in INSTEAD and values["checkpoint"] is None and INSTEAD[program] not in typed:
        values["checkpoint"] = ABSENT
    if values.get("models") == ABSENT:
        values["models"] = {"model": {"checkpoint": ABSENT, "responses": ABSENT, "judgements": None}}
        values["corpus"] = values["corpus"] or ABSENT
    return check(program, schema, values, overrides)


def model_of(presets: Sequence[str], overrides: Sequence[str] = ()) -> ModelConfig | None:
    """Return the model that presets pretrain; its vocabulary is, where they do not say it, their tokenizer's. None without a preset."""
    if not presets:
        return None
    named = [f"preset={name}" for name in presets]
    settings = settings_of("pretrain", [*named, *overrides])
    model: ModelConfig = settings.model
    return model if model.vocab_size else model.with_vocabulary(settings_of("tokenizer", named).vocab_size)


def work_of(program: str, overrides: Sequence[str]) -> Work:
    """Return what a program alone asks."""
    settings, given = of_program(program, overrides)
    work = plans()[program](settings, given)
    assert isinstance(work, Work), program
    return work


def of_program(program: str, overrides: Sequence[str]) -> tuple[Any, Given]:
    """Return the settings of a program alone, and what is known of the files that it reads."""
    if program not in plans():
        raise UserError(
            f"there is no plan of '{program}'{nearest(program, list(plans()))}; need pipeline or {', '.join(plans())}"
        )
    return settings_of(program, overrides), given_of(overrides, program)


def given_of(overrides: Sequence[str], program: str = "") -> Given:
    """Return what is known of the files that a program alone reads: of absent checkpoints what their presets say."""
    presets = [one.partition("=")[2] for one in overrides if one.startswith("preset=")]
    given = Given(
        default=model_of(presets, [one for one in overrides if one.startswith("model") and program == "pretrain"])
    )
    if given.default is not None and given.default.vocab_size is not None:
        given.made[ABSENT] = given.default.vocab_size
    return given
