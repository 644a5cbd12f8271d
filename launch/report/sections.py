"""The report's further sections: each turns a story into HTML, or into nothing where its files are not there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from llamatrain.description import Chart
from llamatrain.progress import duration

from ..runs import Row, decimals, figure, is_number, read_json
from ..story import StageRun, Story
from . import figures
from .elements import card, legend, table
from .figures import Interval, Line
from .results import accuracy_stages, reward_name
from .scores import over_learning

RATINGS = {
    "significantly_better": "significantly better",
    "better": "better",
    "slightly_better": "slightly better",
    "negligibly_better": "negligibly better",
    "unrated": "unrated",
}
BINS = {"safe_unsafe": "safe against unsafe", "both_safe": "both safe", "both_unsafe": "both unsafe"}
WIDE, NARROW = 460, 300  # of curves, in a page of two or three columns


PLUMBING = re.compile(r"seconds|tokens_per_second|lr$|grad_norm|/tokens$")


# --- training ----------------------------------------------------------------------------------------------------


def _loss_curve(stage: StageRun) -> str:
    """The loss over steps: what was measured, its moving average, and held-out values as dots."""
    lines = _smoothed("training loss", stage.series["train/loss"], 1)
    if "eval/loss" in stage.series:
        lines.append(Line("held-out loss", stage.series["eval/loss"], 3, "dots"))
    about = f"training and held-out loss of {stage.name}"
    return figures.line_chart(lines, "step", "loss", about, WIDE, WIDE // 2 + 10, logarithmic=True)


def _smoothed(name: str, points: figures.Points, colour: int) -> list[Line]:
    if len(points) <= 30:
        return [Line(name, points, colour)]
    return [Line(name, points, colour, "faint"), Line(f"{name}, smoothed", figures.smoothed(points), colour)]


def learning(story: Story) -> str:
    """The loss of every stage that fits something; stages that differ in their number only share a figure."""
    groups: dict[str, list[StageRun]] = {}
    for stage in story.stages:
        if stage.about.curve and "train/loss" in stage.series:
            groups.setdefault(re.sub(r"_\d+$", "", stage.name), []).append(stage)
    if not groups:
        return ""
    cards = [_loss_card(group[0]) if len(group) == 1 else _folds_card(name, group) for name, group in groups.items()]
    lead = '<p class="lead">Loss over optimizer steps, averaged over the target tokens (or pairs) of each global batch.</p>'
    return lead + f'<div class="cards">{"".join(cards)}</div>'


def _loss_card(stage: StageRun) -> str:
    drawn = _loss_curve(stage)
    names = [("training", 1), *([("held out", 3)] if "eval/loss" in stage.series else [])]
    return card(escape(stage.name), drawn + legend(names), _final_losses(stage))


def _folds_card(name: str, group: Sequence[StageRun]) -> str:
    lines = [
        Line(stage.name, figures.smoothed(stage.series["train/loss"]), number % 8)
        for number, stage in enumerate(group, 1)
    ]
    drawn = figures.line_chart(
        lines, "step", "loss", f"training loss of {name}", WIDE, WIDE // 2 + 10, logarithmic=True
    )
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
        Interval(name, part["accuracy"], part.get("low"), part.get("high"), shade, decimals(part["accuracy"], 2))
        for name, part, shade in parts
        if isinstance(part, dict) and is_number(part.get("accuracy"))
    ]


def reinforcement(story: Story) -> str:
    """PPO's curves: what is watched first, then everything else it logged."""
    found = ""
    for stage in story.stages:
        watched = [drawn for chart in stage.about.charts if (drawn := _chart(stage, chart))]
        if not watched:
            continue
        shown = {metric for chart in stage.about.charts for metric in chart.metrics}
        left = [name for name in stage.series if name not in shown and not PLUMBING.search(name)]
        rest = "".join(
            card(escape(_words(name)), _chart_of(stage, Chart("", "", "value", {name: _words(name)}))) for name in left
        )
        more = f'<details class="card"><summary>Everything else it logged</summary><div class="cards small">{rest}</div></details>'
        heading = f'<p class="lead">Stage {escape(stage.name)}, over its iterations: the score should rise while the KL stays small.</p>'
        found += f'{heading}<div class="cards small">{"".join(watched)}</div>{more if rest else ""}'
    against = over_learning(story) if found else []
    lead = (
        '<p class="lead">Where the score rises with the distance and the judge\'s mark no longer does, the policy has learned the '
        "reward models' faults.</p>"
    )
    return found + (f'{lead}<div class="cards">{"".join(against)}</div>' if against else "")


def _chart(stage: StageRun, chart: Chart) -> str:
    drawn = _chart_of(stage, chart)
    return card(escape(chart.title), drawn, escape(chart.note)) if drawn else ""


def _chart_of(stage: StageRun, chart: Chart) -> str:
    there = {name: words for name, words in chart.metrics.items() if stage.series.get(name)}
    if not there:
        return ""
    colours = dict(zip(there, (1, 5), strict=False))
    lines = [line for name, words in there.items() for line in _smoothed(words, stage.series[name], colours[name])]
    about = f"{chart.title or next(iter(there.values()))} of {stage.name}"
    drawn = figures.line_chart(lines, "iteration", chart.y_label, about, NARROW, NARROW // 2 + 10, bounds=chart.bounds)
    return drawn + (legend((words, colours[name]) for name, words in there.items()) if len(there) > 1 else "")


def _words(metric: str) -> str:
    return metric.partition("/")[2].replace("_", " ") or metric


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
        read = table(["Stage", "Reads what these made"], rows, numbers=2)
        parts.append(f'<details class="card tight"><summary>Which stage read which</summary>{read}</details>')
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
