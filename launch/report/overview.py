"""The report's first words: what was trained, on how much, on what, what came out; and three prompts to see it by."""

from __future__ import annotations

import json
import struct
from html import escape
from pathlib import Path
from typing import Any

from llamatrain.progress import counted, duration

from ..answers import three
from ..runs import Row, figure, is_number, read_json
from ..story import StageRun, Story
from .elements import card, table
from .samples import sample

PACKAGES = ("llamatrain", "python", "torch", "deepspeed")


def overview(story: Story) -> str:
    """Three sentences on the whole, and what each model is."""
    sentences = [_trained(story), _made_with(story), _came_out(story)]
    told = " ".join(sentence for sentence in sentences if sentence)
    rows = [
        [
            f'<i class="key c{story.colours[model]}"></i><b>{escape(model)}</b>',
            escape(stage.about.model),
            escape(_data(stage)),
            duration(stage.seconds),
        ]
        for model, stage in story.trained.items()
    ]
    models = card("The models", table(["Model", "What it is", "Learned from", "Time"], rows, numbers=3)) if rows else ""
    return (f'<p class="story">{told}</p>' if told else "") + models


def examples(story: Story) -> str:
    """Three prompts, chosen by rule, with every model's answer."""
    shown = three(story)
    if not shown:
        return ""
    lead = '<p class="lead">Chosen by rule from the held-out prompts, by each model\'s first sampled response. More are below.</p>'
    return lead + "".join(sample(story, one.messages, one.answers, one.why) for one in shown)


def _trained(story: Story) -> str:
    size = next((found for stage in story.trained.values() if (found := _size(stage.folder / "final"))), "")
    count = counted(len(story.stages), "stage")
    if not size:
        return ""
    whole = any(stage.program == "ppo" for stage in story.trained.values())
    goal = "from raw text to a chat assistant" if whole else f"in {count}"
    return f"A Llama model of {escape(size)}, trained {goal}{f' in {count}' if whole else ''}."


def _size(folder: Path) -> str:
    """Return a checkpoint's size in words; empty where its weights are not in one file."""
    config = read_json(folder / "config.json")
    shape = [config.get(key) for key in ("num_hidden_layers", "hidden_size", "vocab_size")]
    try:
        with (folder / "model.safetensors").open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return ""
    parameters = 0
    for sides in shapes:
        product = 1
        for side in sides:
            product *= side
        parameters += product
    if not all(map(is_number, shape)):
        return f"{_large(parameters)} parameters"
    layers, width, vocabulary = shape
    return f"{_large(parameters)} parameters ({layers} layers of width {width}, a vocabulary of {vocabulary:,})"


def _large(number: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:,.0f}"


def _made_with(story: Story) -> str:
    seconds = duration(sum(stage.seconds for stage in story.stages))
    found: dict[str, list[str]] = {"on": [], "at commit": [], "with": []}
    for one in story.environments:
        cores = f" ({counted(one['cores'], 'core')})" if is_number(one.get("cores")) else ""
        found["on"].append(str(one.get("gpu") or f"{one.get('processor')}{cores}"))
        found["at commit"].append(str(one.get("commit") or ""))
        found["with"].append(", ".join(f"{name} {one[name]}" for name in PACKAGES if one.get(name)))
    told = {how: [what for what in dict.fromkeys(values) if what] for how, values in found.items()}
    text = ", ".join(f"{how} {' and '.join(values)}" for how, values in told.items() if values)
    return escape(f"That took {seconds} {text}".strip() + ".") if story.stages else ""


def _came_out(story: Story) -> str:
    models: dict[str, Row] = story.evaluation.get("models") or {}
    named = [model for model in models if model not in story.pretrained]
    if not named:
        return ""
    first, last = named[0], named[-1]
    told = []
    for metric in ("helpfulness", "safety"):
        before, after = models[first].get(metric), models[last].get(metric)
        if isinstance(before, dict) and isinstance(after, dict):
            change = f"from {figure(before['mean'])} for {first} to " if first != last else ""
            told.append(f"{metric} {'went ' if change else 'is '}{change}{figure(after['mean'])} for {last}")
    if not told:
        return ""
    prompts = story.evaluation.get("prompts")
    on = f" on {prompts:,} held-out prompts" if is_number(prompts) else ""
    return escape(
        f"By the gold judge, which knows the truth and trains nothing,{on} {' and '.join(told)} (marks are in 0 to 1)."
    )


def _data(stage: StageRun) -> str:
    """Say in a few words what a model was trained on; empty where its run does not tell."""
    known: dict[str, Any] = {**stage.config, **{name: points[-1][1] for name, points in stage.series.items()}}
    known["step"] = stage.status.get("step")
    if is_number(known.get("batch_tokens")) and is_number(known["step"]):
        known["tokens"] = _large(known["batch_tokens"] * known["step"])
    if sources := stage.sources("train"):
        known["rows of train"] = sum(map(_lines, sources)) or None
    try:
        return stage.about.trained_on.format_map(known)
    except (KeyError, TypeError, ValueError):
        return ""


def _lines(source: str) -> int:
    path = Path(source)
    if path.suffix != ".jsonl" or not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
