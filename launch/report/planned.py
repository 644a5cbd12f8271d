"""What the plan says of each stage's settings, beside what the stage took: seconds of a step, time, memory, checkpoints, energy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from statistics import median
from typing import Any

from llamatrain.config.compose import check, compose_dict
from llamatrain.energy import ENERGIES, unit_for
from llamatrain.errors import UserError
from llamatrain.given import Given
from llamatrain.hardware import Machine, peak_of
from llamatrain.here import hardware_here
from llamatrain.memory import machine_memory
from llamatrain.outlook import basis, bytes_in_words, clock, short, span
from llamatrain.pace import START
from llamatrain.pages.parts import Cell, Table
from llamatrain.replaced import bytes_of
from llamatrain.runs import Row, is_number, ranks_per_node
from llamatrain.yaml_files import read_yaml

from ..estimate.chain import Estimated, estimated, of_data
from ..estimate.tables import energy, write_seconds
from ..programs import plans, schema_of
from ..stage_run import StageRun
from ..story import Story

NARROW = "\u202f"  # a space at which no line breaks
HEAD = ["Stage", "s per step", "measured", "Time", "measured", "Memory", "measured", "Checkpoint", "measured"]


def planned(story: Story) -> Row | None:
    """Return a row for each stage that has a plan and took time."""
    pairs = list(_pairs(story))
    if not pairs:
        return None
    kwh = [
        (energy(one, story.rates)[1], used.kwh) for one, stage in pairs if (used := stage.spent.use("", story.rates))
    ]
    unit, per_kwh = unit_for(max(max(pair) for pair in kwh), ENERGIES) if kwh else ("", 0.0)
    rows: list[list[Cell | str]] = []
    for one, stage in pairs:
        used = stage.spent.use("", story.rates)
        own = [f"{energy(one, story.rates)[1] * per_kwh:.2g}", f"{used.kwh * per_kwh:.2g}"] if used else ["–", "–"]
        cells = [cell.replace(" ", NARROW).replace(f",{NARROW}", ", ") for cell in _cells(one, stage)]
        rows.append([Cell(stage.name, strong=True), *cells, *(own if kwh else [])])
    head = [*HEAD, *([f"Energy, {unit}", "measured"] if kwh else [])]
    machine = pairs[0][0].machine
    return {"table": Table(head, rows), "basis": basis(machine), "start": f"{START:g}", "gpus": machine.gpus}


def _pairs(story: Story) -> Iterator[tuple[Estimated, StageRun]]:
    """Yield the plans of stages that a plan knows, in their order: each reads what those before it made."""
    given = Given()
    for stage in story.stages:
        if stage.program not in plans() or not stage.seconds:
            continue
        try:
            (one,) = estimated(
                [(stage.name, stage.program, _settings(stage))], given, lambda *_, run=stage: machine_of(run)
            )
        except (UserError, OSError):  # made by an earlier version, or of files that are gone
            continue
        if one.work is not None:
            yield one, stage


def _settings(stage: StageRun) -> Any:
    """Return the settings that the stage was made with, in a pipeline with references to other stages in place."""
    record = stage.record
    made = record.composed if record and record.composed else read_yaml(stage.folder / "config.yaml")
    values = _over(_defaults(stage.program), of_data(made, None))
    values["run"]["name"] = stage.name
    return check(stage.program, schema_of(stage.program), values)


@cache
def _defaults(program: str) -> Row:
    """Return a program's own values: a run of an earlier version lacks keys that came later."""
    return compose_dict(program, [], schema_of(program))


def _over(values: Row, others: Row) -> Row:
    """Return values with others in their place, at any depth; of a key that is no more nothing is left."""
    known = {key: value for key, value in others.items() if key in values}
    return values | {
        key: _over(values[key], value)
        if isinstance(value, dict) and isinstance(values[key], dict) and values[key]
        else value
        for key, value in known.items()
    }


def machine_of(stage: StageRun) -> Machine:
    """Return what a stage ran on, as far as its files say."""
    own, ranks = stage.spent, stage.record.ranks if stage.record else int(stage.status.get("ranks") or 1)
    hardware = hardware_here()
    if own.gpus:
        size = stage.status.get("environment", {}).get("gpu_bytes")
        gigabytes = size / 1e9 if is_number(size) else hardware.gpu_gigabytes
        peak = peak_of(own.gpu) or hardware.gpu_tflops
        known = replace(hardware, gpu=own.gpu, gpu_tflops=peak, gpu_gigabytes=gigabytes)
        each = ranks_per_node(stage.status, ranks)
        return Machine(known, -(-ranks // each), each, gpus=True)
    return Machine(hardware, 1, ranks, False, max(1.0, own.cores / ranks), float(machine_memory()))


def _cells(one: Estimated, stage: StageRun) -> list[str]:
    work, machine, measured = one.work, one.machine, stage.status.get("measured") or {}
    assert work is not None
    steps = _step_seconds(one, stage)
    start = START / 3600
    most = work.most(machine)
    final = stage.folder / "final"
    there = work.checkpoint_bytes and final.exists()
    return [
        *(steps or ("–", "–")),
        clock((one.hours[0] + start, one.hours[1] + start)),
        clock((stage.seconds / 3600,) * 2),
        bytes_in_words(most),
        bytes_in_words(measured["memory_bytes"]) if is_number(measured.get("memory_bytes")) else "–",
        f"{bytes_in_words(work.checkpoint_bytes)}, {short(write_seconds(one))} s" if work.checkpoint_bytes else "–",
        f"{bytes_in_words(bytes_of(final.resolve()))}{_written(measured)}" if there else "–",
    ]


def _written(measured: Row) -> str:
    seconds = measured.get("publish_seconds")
    return f", {short(seconds)} s" if is_number(seconds) else ""


def _step_seconds(one: Estimated, stage: StageRun) -> tuple[str, str] | None:
    """Return what a step takes by the plan and by the run: of PPO an iteration, whose phases it logs."""
    assert one.pace is not None
    found = [value for _, value in stage.series.get("train/step_seconds", [])]
    if found:
        return span(one.pace.step), short(median(found))
    phases = [dict(points) for name, points in stage.series.items() if "/seconds_" in name]
    if not phases:
        return None
    steps = list(phases[0])
    low, high = (seconds / len(steps) for seconds in one.pace.seconds)
    return span((low, high)), short(median(sum(phase.get(step, 0.0) for phase in phases) for step in steps))
