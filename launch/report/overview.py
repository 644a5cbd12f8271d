"""The report's first words: what was trained, on how much, on what, what came out, and the chain of stages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from llamatrain.pages.parts import Cell, Table
from llamatrain.progress import counted, duration
from llamatrain.runs import Row, decimals, is_number, read_json

from ..answers import three
from ..stage_run import StageRun
from ..story import Story
from .chain import Box, chain
from .results import charts, measure_of
from .samples import sample

PACKAGES = ("llamatrain", "python", "torch", "deepspeed")
LONG = 120  # characters of a command
LATEST = datetime(3000, 1, 1).timestamp()  # a later time is no time
WAYS = {  # of drawing the chain: how many stages side by side, across how many units, how wide a letter (page.css)
    "wide": (7, 1000.0, 7.2),
    "narrow": (3, 340.0, 6.7),
}
STATES = {"": "not run yet", "running": "running", "waiting": "waiting", "failed": "failed", "stopped": "stopped"}


def overview(story: Story) -> Row:
    """Return what was trained, on how much, by what, how long, and what came out."""
    told = [_trained(story), _learned(story), _came_out(story)]
    return {
        "sentences": [sentence for sentence in told if sentence],
        "unfinished": _unfinished(story),
        "charts": charts(story),
        "facts": _facts(story),
    }


def stages(story: Story) -> Row | None:
    """Return the drawing of the chain and what each model is."""
    boxes = [_box(story, stage) for stage in story.chain]
    drawn = any(box.parents for box in boxes)
    rows: list[list[Cell | str]] = [
        [
            Cell(model, strong=True, colour=story.colours[model]),
            stage.about.model,
            stage.told(stage.about.trained_on),
            duration(stage.seconds),
        ]
        for model, stage in story.trained.items()
    ]
    if not drawn and not rows:
        return None
    return {
        "drawings": {way: chain(boxes, *how) for way, how in WAYS.items()} if drawn else {},
        "left_out": [str(line) for line in story.description.get("left_out") or []],
        "models": Table(["Model", "What it is", "Learned from", "Time"], rows, numbers=3),
    }


def examples(story: Story) -> Row | None:
    """Return three prompts, chosen by rule, with every model's answer."""
    shown = [sample(story, one.messages, one.answers, one.why) for one in three(story)]
    return {"samples": shown} if shown else None


# --- the story ---------------------------------------------------------------------------------------------------


def _trained(story: Story) -> str:
    size = next((found for stage in story.trained.values() if (found := stage.told("{parameters}"))), "")
    if not size:
        return ""
    chats = {stage.about.chats for stage in story.trained.values()}
    way = " from raw text to a chat assistant" if chats == {True, False} else ""
    machine, _, _ = _environments(story)
    took = f"{duration(sum(stage.seconds for stage in story.stages))}{f' on {machine}' if machine else ''}"
    done = counted(sum(bool(stage.seconds) for stage in story.stages), "stage")
    return f"A Llama model of {size} parameters was trained{way} in {done}, which took {took}."


def _learned(story: Story) -> str:
    models: dict[str, list[str]] = {}  # what was learned from -> by which models: rounds may tell the same
    for model, stage in story.trained.items():
        if how := stage.told(stage.about.trained_on):
            models.setdefault(how, []).append(model)
    told = [
        f"{how} ({of[0]})" if len(of) == 1 else f"{len(of)} times {how} ({of[0]} to {of[-1]})"
        for how, of in models.items()
    ]
    return f"It learned from {_listed(told)}." if told else ""


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _came_out(story: Story) -> str:
    models: dict[str, Row] = story.evaluation.get("models") or {}
    named = [model for model in models if model not in story.pretrained]
    if not named:
        return ""
    first, last = named[0], named[-1]
    about, _ = story.measured
    for by, words in about.by.items():
        told = []
        for metric in (name for name, known in about.known.items() if known.by == by):
            before, after = models[first].get(metric), models[last].get(metric)
            if isinstance(before, dict) and isinstance(after, dict):
                known = measure_of(story, metric)
                was = f"from {decimals(before['mean'], known.digits)} for {first} to " if first != last else ""
                now = f"{decimals(after['mean'], known.digits)} for {last}"
                told.append(f"{known.title.lower()} {'went' if was else 'is'} {was}{now}")
        if told:
            prompts = story.evaluation.get("prompts")
            on = f", on {prompts:,} held-out prompts" if is_number(prompts) else ""
            return f"{by[:1].upper()}{by[1:]}{on}, {_listed(told[:2])}. {words}"
    return ""


def _unfinished(story: Story) -> str:
    done = sum(stage.status.get("state") == "done" for stage in story.chain)
    if done == len(story.chain):
        return ""
    told = [f"{done} of {counted(len(story.chain), 'stage')} done"]
    for stage in story.chain:
        state, reason = stage.status.get("state"), str(stage.status.get("reason") or "")
        if state in ("waiting", "failed", "stopped"):
            told.append(f"{stage.name} {reason if state == 'waiting' and reason else state}")
    return "; ".join(told)


# --- facts -------------------------------------------------------------------------------------------------------


def _facts(story: Story) -> list[tuple[str, str]]:
    ended = max((stage.status.get("updated", 0.0) for stage in story.stages), default=0.0)
    command = story.description.get("command")
    machines, commits, versions = _environments(story)
    facts = {
        "Model": next((found for stage in story.trained.values() if (found := _shape(stage))), ""),
        "Machine": machines,
        "Time": _time(story),
        "As of" if _unfinished(story) else "Finished": datetime.fromtimestamp(ended).strftime("%-d %B %Y, %H:%M")
        if 0 < ended < LATEST
        else "",
        "Versions": versions,
        "Commit": commits,
        "Command": _shortened(list(map(str, command))) if command else "",
    }
    return [(name, value) for name, value in facts.items() if value]


def _shortened(command: list[str]) -> str:
    """Return a command, of a long one the beginning: the section on lineage has all of it."""
    whole = " ".join(command)
    return whole if len(whole) <= LONG else f"{' '.join(command[:3])} … (in full under Lineage)"


def _environments(story: Story) -> tuple[str, str, str]:
    """Return on which machines, at which commits and with which versions the stages were made."""
    machines, commits, versions = [], [], []
    for one in story.environments:
        cores = f" ({counted(one['cores'], 'core')})" if is_number(one.get("cores")) else ""
        machines.append(str(one.get("gpu") or f"{one.get('processor')}{cores}"))
        commits.append(str(one.get("commit") or ""))
        versions.append(", ".join(f"{name} {one[name]}" for name in PACKAGES if one.get(name)))
    machine, commit, version = (
        " and ".join(filter(None, dict.fromkeys(all_))) for all_ in (machines, commits, versions)
    )
    return machine, commit, version


def _shape(stage: StageRun) -> str:
    config = read_json(stage.folder / "final" / "config.json")
    layers, width, words = (config.get(key) for key in ("num_hidden_layers", "hidden_size", "vocab_size"))
    if not all(map(is_number, (layers, width, words))):
        return ""
    return f"{layers} layers of width {width:,}, a vocabulary of {words:,}"


def _time(story: Story) -> str:
    seconds = sum(stage.seconds for stage in story.stages)
    gpus, hours = hours_of(story)
    unit = "GPU-hours" if gpus else "core-hours"
    return f"{duration(seconds)}{f', {hours:.3g} {unit}' if hours else ''}" if seconds else ""


def hours_of(story: Story) -> tuple[bool, float]:
    """Return whether GPUs were used, and how many hours of them, or else of cores, the stages took."""
    taken = [stage.spent for stage in story.stages]
    gpus = any(one.gpus for one in taken)
    return gpus, sum(one.gpu_hours if gpus else one.core_hours for one in taken)


# --- the chain ---------------------------------------------------------------------------------------------------


def _box(story: Story, stage: StageRun) -> Box:
    state = str(stage.status.get("state") or "")
    known = "done" if state == "done" else STATES.get(state, "unknown")
    colour = next((story.colours[model] for model, one in story.trained.items() if one.name == stage.name), None)
    size = stage.told(stage.about.size) if known == "done" else known
    title = f"{stage.name}: {stage.about.summary or stage.program}; {known}"
    title += f" in {duration(stage.seconds)}" if known == "done" and stage.seconds else ""
    return Box(stage.name, stage.parents, size, state or "planned", colour, title)
