"""The report's last pages: what every stage took, what it read, and what it was configured to do."""

from __future__ import annotations

from llamatrain.energy import formula, tonnes_co2, truncated, units
from llamatrain.pages.parts import Cell, Table
from llamatrain.progress import duration
from llamatrain.runs import Row, is_number

from ..stage_run import StageRun
from ..story import Story
from . import figures
from .overview import hours_of


def cost(story: Story) -> Row | None:
    """Return what every stage took."""
    total = sum(stage.seconds for stage in story.stages)
    if not total:
        return None
    gpus, hours = hours_of(story)
    energy = _energy(story)
    restarted = any(stage.status.get("restarts") for stage in story.stages)
    rows: list[list[Cell | str]] = []
    for stage in story.stages:
        own = stage.spent.gpu_hours if gpus else stage.spent.core_hours
        speeds = sorted(value for _, value in stage.series.get("train/tokens_per_second", []))
        steps = stage.status.get("step")
        rows.append(
            [
                Cell(stage.name, strong=True),
                Cell(stage.program, kind="soft"),
                f"{steps:,}" if is_number(steps) and steps else "–",
                f"{speeds[len(speeds) // 2]:,.0f}" if speeds else "–",
                duration(stage.seconds),
                f"{stage.seconds / total:.0%}",
                f"{own:.3f}" if own else "–",
                *(energy["cells"][stage.name] if energy else []),
                *([_restarts(stage)] if restarted else []),
            ]
        )
    whole: list[Cell | str] = [
        "",
        "",
        "",
        "",
        Cell(duration(total), strong=True),
        "",
        Cell(f"{hours:.3f}" if hours else "", strong=True),
        *([Cell(text, strong=True) for text in energy["total"]] if energy else []),
        *([""] if restarted else []),
    ]
    unit, title = ("GPU", "GPU-hours") if gpus else ("core", "Core-hours")
    head = [
        "Stage",
        "Program",
        "Steps",
        "Tokens/s (median)",
        "Time",
        "Share",
        title,
        *(energy["head"] if energy else []),
        *(["Restarts (steps repeated)"] if restarted else []),
    ]
    longest = sorted(story.stages, key=lambda stage: -stage.seconds)
    amounts = [(stage.name, stage.seconds, duration(stage.seconds)) for stage in longest]
    return {
        "bar": figures.shares(amounts, "time of each stage"),
        "unit": unit,
        "note": energy["note"] if energy else "",
        "table": Table(head, [*rows, whole], numbers=2),
    }


def _energy(story: Story) -> Row | None:
    """Return every stage's energy and carbon, and how they follow; None where the power of a GPU is not known."""
    found = {stage.name: stage.spent.use(stage.name, story.rates) for stage in story.stages}
    uses = [use for use in found.values() if use is not None]
    if len(uses) < len(found):
        return None
    rates = story.rates
    carbon = {use.name: tonnes_co2(use.kwh, rates.pue, rates.carbon_intensity) for use in uses}
    (energy, per_kwh), (mass, per_tonne) = units(uses, rates)
    measured = sum(use.measured for use in uses)
    how = (
        "measured"
        if measured == len(uses)
        else f"measured for {measured} stages, otherwise"
        if measured
        else "not measured, but"
    )
    stated = "" if measured == len(uses) else " as the devices state it"
    return {
        "head": [f"Energy ({energy})", f"{mass}CO2eq"],
        "cells": {use.name: [f"{use.kwh * per_kwh:.3f}", truncated(carbon[use.name] * per_tonne)] for use in uses},
        "total": [f"{sum(use.kwh for use in uses) * per_kwh:.3f}", truncated(sum(carbon.values()) * per_tonne)],
        "note": f"Carbon is {formula(rates)}; power is {how}{stated}.",
    }


def _restarts(stage: StageRun) -> str:
    """Return how often a stage was started again before it was done, and how many steps it took again."""
    restarts, repeated = stage.status.get("restarts", 0), stage.status.get("repeated", 0)
    return f"{restarts:,} ({repeated:,})" if restarts else "–"


def lineage(story: Story) -> Row | None:
    """Return which stage read which, and what each was configured to do."""
    read: list[list[Cell | str]] = [
        [Cell(stage.name, strong=True), ", ".join(stage.parents) or "–"] for stage in story.stages
    ]
    details = [_details(stage) for stage in story.stages if stage.record]
    command = story.description.get("command")
    found = {
        "read": Table(["Stage", "Reads the results of"], read, 2) if any(one.parents for one in story.stages) else None,
        "stages": details,
        "command": " ".join(map(str, command)) if command else "",
    }
    return found if any(found.values()) else None


def _details(stage: StageRun) -> Row:
    record = stage.record
    assert record is not None
    return {
        "name": stage.name,
        "note": f"{record.program} · key {record.key[:12]} · {stage.status.get('state', 'not run')}",
        "settings": [(key, str(value)) for key, value in record.config.items()],
        "inputs": [(name, str(digest)[:16]) for name, digest in record.inputs.items()],
    }
