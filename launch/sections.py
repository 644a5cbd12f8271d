"""The report's further sections: each turns a story into HTML, or into nothing where its files are not there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from llamatrain.progress import duration

from . import figures
from .elements import card, legend, table
from .figures import Interval, Line
from .results import accuracy_stages, reward_name
from .runs import Row, figure, is_number, read_json
from .story import StageRun, Story

RATINGS = {
    "significantly_better": "significantly better",
    "better": "better",
    "slightly_better": "slightly better",
    "negligibly_better": "negligibly better",
    "unrated": "unrated",
}
BINS = {"safe_unsafe": "safe against unsafe", "both_safe": "both safe", "both_unsafe": "both unsafe"}
WIDE, NARROW = 460, 300  # of curves, in a page of two or three columns
FITTED = ("pretrain", "sft", "reward", "rejection_sampling")  # programs whose curve is a loss

# What is looked at first in reinforcement learning; the first metric whose name has the word gets the chart.
WATCHED = {
    r"score_combined|(^|/)(combined|score)$": (
        "Score",
        "combined reward-model score of the sampled responses, as a logit",
    ),
    r"(^|/)kl$": ("KL", "distance from the starting policy"),
    r"length": ("Response length", "tokens a response"),
    r"helpfulness": ("Helpfulness", "score of the helpfulness reward model, as a logit"),
    r"safety": ("Safety", "score of the safety reward model, as a logit"),
    r"entropy": ("Entropy", "of the policy, a token"),
    r"value_loss|explained_variance": ("Critic", "how well it predicts the return"),
    r"clip_?fraction": ("Clip fraction", "share of tokens where PPO's clip holds"),
}
PLUMBING = re.compile(r"seconds|tokens_per_second|lr$|grad_norm|/tokens$")


# --- training ----------------------------------------------------------------------------------------------------


def _curve(stage: StageRun, metric: str, colour: int, width: int, logarithmic: bool = False, held_out: str = "") -> str:
    """One metric over steps: what was measured, its moving average, and held-out values as dots."""
    points = stage.series.get(metric, [])
    lines = []
    if len(points) > 30:
        lines = [Line(metric, points, colour, "faint"), Line(f"{metric}, smoothed", figures.smoothed(points), colour)]
    elif points:
        lines = [Line(metric, points, colour)]
    if held_out in stage.series:
        lines.append(Line(held_out, stage.series[held_out], 3, "dots"))
    about = f"{metric} of {stage.name}"
    return figures.line_chart(lines, "step", about, width, width // 2 + 10, logarithmic) if lines else ""


def learning(story: Story) -> str:
    """The loss of every stage that fits something; stages that differ in their number only share a figure."""
    groups: dict[str, list[StageRun]] = {}
    for stage in story.of(*FITTED):
        if "train/loss" in stage.series:
            groups.setdefault(re.sub(r"_\d+$", "", stage.name), []).append(stage)
    if not groups:
        return ""
    cards = [_loss_card(group[0]) if len(group) == 1 else _folds_card(name, group) for name, group in groups.items()]
    lead = '<p class="lead">Loss over optimizer steps, averaged over the target tokens (or pairs) of each global batch.</p>'
    return lead + f'<div class="cards">{"".join(cards)}</div>'


def _loss_card(stage: StageRun) -> str:
    drawn = _curve(stage, "train/loss", 1, WIDE, logarithmic=True, held_out="eval/loss")
    names = [("training", 1), *([("held out", 3)] if "eval/loss" in stage.series else [])]
    return card(escape(stage.name), drawn + legend(names), _final_losses(stage))


def _folds_card(name: str, group: Sequence[StageRun]) -> str:
    lines = [
        Line(stage.name, figures.smoothed(stage.series["train/loss"]), number % 8)
        for number, stage in enumerate(group, 1)
    ]
    drawn = figures.line_chart(lines, "step", f"train/loss of {name}", WIDE, WIDE // 2 + 10, logarithmic=True)
    keys = legend((stage.name.rpartition("_")[2], number % 8) for number, stage in enumerate(group, 1))
    return card(escape(name), drawn + keys, f"{len(group)} runs, smoothed")


def _final_losses(stage: StageRun) -> str:
    found = [
        f"{name} {figure(stage.series[key][-1][1])}"
        for key, name in (("eval/loss", "held out"), ("train/loss", "training"))
        if key in stage.series
    ]
    return found[0] if found else ""


def reward_models(story: Story) -> str:
    """How often the reward models order held-out pairs as the annotators did."""
    cards = []
    for number, stage in enumerate(accuracy_stages(story)):
        found = read_json(stage.folder / "accuracy.json")
        rows = _accuracies(found, (1, 2, 4, 3)[number % 4])
        if rows:
            note = f"{found.get('overall', {}).get('pairs', 0):,} held-out pairs"
            drawn = figures.intervals(rows, f"accuracy of {stage.name}", zero=0.5, bounds=(0.5, 1.0))
            cards.append(card(escape(reward_name(stage)), drawn, note))
    if not cards:
        return ""
    lead = (
        '<p class="lead">Share of held-out pairs that the reward model orders as the annotators did, with 95 % intervals; '
        "0.5 is chance. Clear preferences should be easier than slight ones.</p>"
    )
    return lead + f'<div class="cards">{"".join(cards)}</div>'


def _accuracies(found: Row, colour: int) -> list[Interval]:
    parts = [("all pairs", found.get("overall"), 0)]
    parts += [(shown, (found.get("by_rating") or {}).get(key), colour) for key, shown in RATINGS.items()]
    parts += [(BINS.get(key, key), part, 5) for key, part in (found.get("by_bin") or {}).items()]
    found_all = [part for _, part, _ in parts]
    if found_all.count(parts[0][1]) > 1:  # pairs of one kind only: they are all pairs
        parts = parts[:1]
    return [
        Interval(name, part["accuracy"], part.get("low"), part.get("high"), shade, f"{part['accuracy']:.0%}")
        for name, part, shade in parts
        if isinstance(part, dict) and is_number(part.get("accuracy"))
    ]


def reinforcement(story: Story) -> str:
    """PPO's curves: what is watched first, then everything else it logged."""
    found = ""
    for stage in story.of("ppo"):
        left = [name for name in stage.series if not PLUMBING.search(name)]
        watched = []
        for pattern, (title, note) in WATCHED.items():
            metric = next((name for name in left if re.search(pattern, name)), None)
            if metric is not None:
                left.remove(metric)
                watched.append(card(title, _curve(stage, metric, 1, NARROW), note))
        if not watched:
            continue
        rest = "".join(card(f"<code>{escape(name)}</code>", _curve(stage, name, 0, NARROW)) for name in left)
        more = f'<details class="card"><summary>Everything else it logged</summary><div class="cards small">{rest}</div></details>'
        heading = f'<p class="lead">Stage {escape(stage.name)}, over its iterations: the score should rise while the KL stays small.</p>'
        found += f'{heading}<div class="cards small">{"".join(watched)}</div>{more if rest else ""}'
    return found


def score_distributions(story: Story) -> str:
    """The reward models' scores of every model's responses, as distributions."""
    cards = []
    for key, title, safety in (
        ("helpfulness", "Helpfulness, by the reward model", False),
        ("safety_score", "Safety, by the reward model", True),
    ):
        scores = story.scores(key, safety)
        if scores:
            rows = [(model, values, story.colours[model]) for model, values in scores.items()]
            both = any(len(values) < len(story.responses[model]) for model, values in scores.items())
            note = ("on adversarial prompts" if safety else "on harmless prompts") if both else ""
            cards.append(card(title, figures.ridges(rows, f"distribution of the {title}"), note))
    if not cards:
        return ""
    lead = (
        '<p class="lead">How the reward models score the responses sampled after each step (after a sigmoid: 0 bad, 1 good). '
        "Lines are means. These are the scores that tuning works for; the results above say whether they can be trusted. "
        "The reward models saw only what fine-tuned models answer: what they make of a base model says little.</p>"
    )
    return lead + f'<div class="cards">{"".join(cards)}</div>'


# --- samples -----------------------------------------------------------------------------------------------------


def samples(story: Story) -> str:
    """The same prompts answered by every model."""
    found = ""
    for safety, title in ((False, "Harmless prompts"), (True, "Adversarial prompts")):
        shown = [_sample(story, messages, rows) for messages, rows in story.side_by_side(safety)]
        heading = f'<h3 style="margin-top:22px">{title}</h3>' if shown else ""
        found += heading + "".join(shown)
    lead = '<p class="lead">The first sampled response of every model to prompts spread evenly over the held-out set: not picked.</p>'
    return lead + found if found else ""


def _sample(story: Story, messages: list[Row], rows: dict[str, Row]) -> str:
    turns = "".join(
        f'<span class="role">{escape(str(m.get("role")))}</span>{escape(_clipped(str(m.get("content"))))}'
        for m in messages
    )
    answers = "".join(_answer(model, row, story.colours[model]) for model, row in rows.items())
    return f'<div class="card sample"><div class="prompt">{turns}</div><div class="answers">{answers}</div></div>'


def _answer(model: str, row: Row, colour: int) -> str:
    text = escape(_clipped(str(row.get("response") or ""))) or '<span class="cut">(nothing)</span>'
    cut = "" if row.get("finished", True) else '<span class="cut" title="cut at the length limit">…</span>'
    judged = row.get("judgement") or {}
    marks = _marks("gold judge", judged.get("helpfulness"), judged.get("safety"))
    marks += _marks("reward models", row.get("helpfulness"), row.get("safety_score"))
    return f'<div class="answer c{colour}"><span class="who">{escape(model)}</span><p>{text}{cut}</p>{marks}</div>'


def _marks(who: str, helpful: Any, safe: Any) -> str:
    given = [f"{name} <b>{value:.2f}</b>" for name, value in (("helpful", helpful), ("safe", safe)) if is_number(value)]
    return f'<div class="marks">{who}: {", ".join(given)}</div>' if given else ""


def _clipped(text: str, most: int = 900) -> str:
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " […]"


# --- cost, lineage -----------------------------------------------------------------------------------------------


def cost(story: Story) -> str:
    """What every stage took."""
    if not any(stage.seconds for stage in story.stages):
        return ""
    total, rows, hours = sum(stage.seconds for stage in story.stages), [], 0.0
    gpus = any(stage.record and stage.record.gpus for stage in story.stages)
    for stage in story.stages:
        record = stage.record
        units = (record.gpus if gpus else record.cores) if record else 0
        hours += units * stage.seconds / 3600
        speeds = [value for _, value in stage.series.get("train/tokens_per_second", [])]
        speed = f"{sorted(speeds)[len(speeds) // 2]:,.0f}" if speeds else "–"
        steps = stage.status.get("step")
        name, program = escape(stage.name), escape(stage.program)
        trained = f"{steps:,}" if is_number(steps) and steps else "–"
        used = f"{units * stage.seconds / 3600:.3f}" if units else "–"
        what = [f"<b>{name}</b>", f'<span class="soft">{program}</span>', trained, speed]
        rows.append([*what, duration(stage.seconds), f"{stage.seconds / total:.0%}", used])
    rows.append(["", "", "", "", f"<b>{duration(total)}</b>", "", f"<b>{hours:.3f}</b>" if hours else ""])
    unit = "GPU-hours" if gpus else "Core-hours"
    head = ["Stage", "Program", "Steps", "Tokens/s (median)", "Time", "Share", unit]
    longest = sorted(story.stages, key=lambda stage: -stage.seconds)
    bar = figures.shares(
        [(stage.name, stage.seconds, duration(stage.seconds)) for stage in longest], "time of each stage"
    )
    lead = f'<p class="lead">Wall-clock time of each stage over all its attempts. {unit} count every {unit.split("-")[0].lower()} the stage could use.</p>'
    return f'{lead}<div class="card tight">{bar}{table(head, rows, numbers=2)}</div>'


def lineage(story: Story) -> str:
    """Which stage read which, and what each was configured to do."""
    parts = []
    if any(stage.parents for stage in story.stages):
        rows = [[f"<b>{escape(stage.name)}</b>", escape(", ".join(stage.parents)) or "–"] for stage in story.stages]
        parts.append(f'<div class="card tight">{table(["Stage", "Reads what these made"], rows, numbers=2)}</div>')
    details = [_details(stage) for stage in story.stages if stage.record]
    if details:
        parts.append(f'<div class="card"><h3>Configuration of each stage</h3>{"".join(details)}</div>')
    command = story.description.get("command")
    if command:
        parts.append(f"<pre>{escape(' '.join(map(str, command)))}</pre>")
    return "".join(parts)


def _details(stage: StageRun) -> str:
    record = stage.record
    assert record is not None
    settings = "".join(
        f"<div><span>{escape(key)}</span><span>{escape(str(value))}</span></div>"
        for key, value in record.config.items()
    )
    inputs = [
        [f"<code>{escape(name)}</code>", f"<code>{escape(str(digest)[:16])}</code>"]
        for name, digest in record.inputs.items()
    ]
    read = table(["Read", "sha256"], inputs) if inputs else ""
    about = f"{escape(record.program)} · key {record.key[:12]} · {escape(str(stage.status.get('state', 'not run')))}"
    body = f'<div class="settings">{settings}</div>{read}'
    return f'<details><summary>{escape(stage.name)} <span class="soft">{about}</span></summary>{body}</details>'
