"""The report's sections: each turns a story into HTML, or into nothing where its files are not there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from llamatrain.progress import duration

from . import figures
from .figures import Interval, Line
from .runs import Row, figure, is_number, read_json
from .story import StageRun, Story

METRICS = {
    "helpfulness": "Helpfulness",
    "safety": "Safety",
    "score_helpfulness": "Helpfulness score",
    "score_safety": "Safety score",
    "score_combined": "Combined score",
    "perplexity": "Perplexity",
    "bits_per_byte": "Bits per byte",
    "loss": "Loss",
    "gated": "Scored unsafe",
    "finished": "Finished",
    "length": "Words a response",
}
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
    r"score_combined|(^|/)(combined|score)$": ("Score", "combined reward-model score of the sampled responses"),
    r"(^|/)kl$": ("KL", "distance from the starting policy"),
    r"length": ("Response length", "tokens a response"),
    r"helpfulness": ("Helpfulness", "score of the helpfulness reward model"),
    r"safety": ("Safety", "score of the safety reward model"),
    r"entropy": ("Entropy", "of the policy, a token"),
    r"value_loss|explained_variance": ("Critic", "how well it predicts the return"),
    r"clip_?fraction": ("Clip fraction", "share of tokens where PPO's clip holds"),
}
PLUMBING = re.compile(r"seconds|tokens_per_second|lr$|grad_norm|/tokens$")


def words(seconds: float) -> str:
    """Return a duration in words."""
    return duration(seconds)


def title_of(metric: str) -> str:
    """Return a metric's name for people."""
    return METRICS.get(metric, metric.replace("_", " ").capitalize())


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 1) -> str:
    """Return a table; columns from `numbers` on hold numbers. Cells are HTML."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=n' if i >= numbers else ''}>{cell}</{tag}>" for i, cell in enumerate(row))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>{body}</tbody></table></div>'


def card(title: str, body: str, note: str = "") -> str:
    """Return a framed figure or table with its title."""
    soft = f' <span class="soft">{note}</span>' if note else ""
    return f'<div class="card"><h3>{title}{soft}</h3>{body}</div>'


def legend(names: Iterable[tuple[str, int]]) -> str:
    """Return the colours' names."""
    keys = (f'<span><i class="key c{colour}"></i>{escape(name)}</span>' for name, colour in names)
    return f'<p class="legend">{"".join(keys)}</p>'


def spread(low: Any, high: Any) -> str:
    """Return an interval in words, nothing where there is none."""
    return f'<span class="range">{figure(low)} to {figure(high)}</span>' if is_number(low) and is_number(high) else ""


# --- results -----------------------------------------------------------------------------------------------------


def results(story: Story) -> str:
    """Every model's measures with 95 % intervals, and the paired differences."""
    models: dict[str, Row] = story.evaluation.get("models") or {}
    if not models:
        return ""
    with_interval = _metrics(models, lambda value: isinstance(value, dict) and is_number(value.get("mean")))
    plain = _metrics(models, is_number)
    prompts, each = story.evaluation.get("prompts"), story.evaluation.get("samples_per_prompt")
    basis = f" {prompts:,} held-out prompts" if is_number(prompts) else " held-out prompts"
    basis += f", {each:,} sampled responses each" if is_number(each) and each > 1 else ""
    lead = f'<p class="lead">Measured on{basis}. Ranges are 95 % confidence intervals.</p>'
    charts = [_metric_card(story, models, metric) for metric in with_interval]
    return (
        lead
        + _tiles(story, models)
        + f'<div class="cards">{"".join(charts)}</div>'
        + card("Means", _models_table(story, models, with_interval))
        + _by_kind(story, with_interval[:2])
        + (card("Also measured", _models_table(story, models, plain)) if plain else "")
        + _differences(story)
    )


def _models_table(story: Story, models: dict[str, Row], metrics: Sequence[str], titles: Sequence[str] = ()) -> str:
    """Return a row a model and a column a metric, with the interval where there is one."""
    rows = []
    for model, measured in models.items():
        cells = [f'<i class="key c{story.colours.get(model, 0)}"></i><b>{escape(model)}</b>']
        for metric in metrics:
            value = measured.get(metric)
            if isinstance(value, dict):
                cells.append(f"<b>{figure(value['mean'])}</b> {spread(value.get('low'), value.get('high'))}")
            else:
                cells.append(figure(value) if is_number(value) else "–")
        rows.append(cells)
    return table(["Model", *(titles or [escape(title_of(metric)) for metric in metrics])], rows)


def _by_kind(story: Story, metrics: Sequence[str]) -> str:
    """The main measures apart on harmless and on adversarial prompts."""
    kinds = story.evaluation.get("by_kind") or {}
    if len(kinds) < 2 or not metrics:
        return ""
    wide: dict[str, Row] = {}
    titles = []
    for metric in metrics:
        for kind, part in kinds.items():
            shown = "adversarial" if kind == "unsafe" else kind
            titles.append(f"{escape(title_of(metric))}, {escape(shown)}")
            for model, measured in (part.get("models") or {}).items():
                wide.setdefault(model, {})[f"{metric} {kind}"] = measured.get(metric)
    keys = [f"{metric} {kind}" for metric in metrics for kind in kinds]
    return card("By kind of prompt", _models_table(story, wide, keys, titles))


def _metrics(models: dict[str, Row], wanted: Any) -> list[str]:
    found = dict.fromkeys(key for measured in models.values() for key, value in measured.items() if wanted(value))
    return sorted(found, key=lambda key: list(METRICS).index(key) if key in METRICS else len(METRICS))


def _metric_card(story: Story, models: dict[str, Row], metric: str) -> str:
    rows = []
    for model, measured in models.items():
        value = measured.get(metric)
        if isinstance(value, dict) and is_number(value.get("mean")):
            mean = float(value["mean"])
            rows.append(Interval(model, mean, value.get("low"), value.get("high"), story.colours[model], figure(mean)))
    edges = [edge for row in rows for edge in (row.mean, row.low, row.high) if edge is not None]
    bounds = (0.0, 1.0) if min(edges) >= 0 and max(edges) <= 1 else None
    return card(escape(title_of(metric)), figures.intervals(rows, f"{metric} of every model", bounds=bounds))


def _tiles(story: Story, models: dict[str, Row]) -> str:
    """The last model's main measures, large, and how they changed since the first."""
    tiles: list[tuple[str, str, str]] = []
    first, last = next(iter(models)), list(models)[-1]
    for metric in ("helpfulness", "safety", "score_helpfulness", "score_safety"):
        value, before = models[last].get(metric), models[first].get(metric)
        if not isinstance(value, dict) or len(tiles) == 2:
            continue
        change = f"{figure(before['mean'])} for {escape(first)}" if isinstance(before, dict) and first != last else ""
        tiles.append((f"{title_of(metric)} of {escape(last)}", figure(value["mean"]), change))
    for stage in story.of("reward.evaluate"):
        overall = read_json(stage.folder / "accuracy.json").get("overall", {})
        if is_number(overall.get("accuracy")):
            low, high = spread(overall.get("low"), overall.get("high")), f"{overall.get('pairs', 0):,} pairs"
            tiles.append((f"Accuracy, {escape(_reward_name(stage))}", f"{overall['accuracy']:.1%}", low or high))
    tiles = tiles[:4]
    shown = (
        f'<div class="tile"><div class="what">{what}</div><div class="number">{number}</div><div class="change">{change}</div></div>'
        for what, number, change in tiles
    )
    return f'<div class="tiles">{"".join(shown)}</div>'


def _differences(story: Story) -> str:
    """The paired differences between models, on the same prompts."""
    rows, charts = [], dict[str, list[Interval]]()
    for entry in story.evaluation.get("comparisons") or []:
        difference, low, high = (entry.get(key) for key in ("difference", "low", "high"))
        if not is_number(difference):
            continue
        sure = is_number(low) and is_number(high) and not low <= 0 <= high
        kind = ("better" if difference > 0 else "worse") if sure else ""
        pair = f"{entry.get('model')} − {entry.get('baseline')}"
        won = entry.get("win_rate")
        rate = won.get("rate") if isinstance(won, dict) else won
        span = (
            spread(won.get("low"), won.get("high"))
            if isinstance(won, dict)
            else spread(entry.get("win_low"), entry.get("win_high"))
        )
        wins = f"{rate:.0%} {span}" if is_number(rate) else "–"
        metric = title_of(str(entry.get("metric")))
        value = f'<b class="{kind}">{difference:+.3f}</b> {spread(low, high)}'
        rows.append([escape(pair), escape(metric), value, wins])
        colour = story.colours.get(str(entry.get("model")), 1)
        charts.setdefault(metric, []).append(Interval(pair, difference, low, high, colour, f"{difference:+.2f}"))
    if not rows:
        return ""
    drawn = "".join(
        card(f"{escape(metric)}: difference", figures.intervals(lines, f"differences in {metric}", zero=0.0))
        for metric, lines in list(charts.items())[:2]
    )
    text = "the same prompts under both models; coloured where the interval leaves out zero"
    cells = table(["Models", "Measure", "Difference", "Win rate"], rows, numbers=2)
    return f'<div style="height:16px"></div>{card("Paired differences", cells, text)}<div style="height:16px"></div><div class="cards">{drawn}</div>'


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
    """The loss of every stage that fits something."""
    cards = []
    for stage in story.of(*FITTED):
        drawn = _curve(stage, "train/loss", 1, WIDE, logarithmic=True, held_out="eval/loss")
        if drawn:
            names = [("training", 1), *([("held out", 3)] if "eval/loss" in stage.series else [])]
            cards.append(card(escape(stage.name), drawn + legend(names), _final_losses(stage)))
    if not cards:
        return ""
    lead = '<p class="lead">Loss over optimizer steps, averaged over the target tokens (or pairs) of each global batch.</p>'
    return lead + f'<div class="cards">{"".join(cards)}</div>'


def _final_losses(stage: StageRun) -> str:
    found = [
        f"{name} {figure(stage.series[key][-1][1])}"
        for key, name in (("eval/loss", "held out"), ("train/loss", "training"))
        if key in stage.series
    ]
    return found[0] if found else ""


def _reward_name(stage: StageRun) -> str:
    return next(iter(stage.reads("checkpoint")), stage.name)


def reward_models(story: Story) -> str:
    """How often the reward models order held-out pairs as the annotators did."""
    cards = []
    for number, stage in enumerate(story.of("reward.evaluate")):
        found = read_json(stage.folder / "accuracy.json")
        rows = _accuracies(found, (1, 2, 4, 3)[number % 4])
        if rows:
            note = f"{found.get('overall', {}).get('pairs', 0):,} held-out pairs"
            drawn = figures.intervals(rows, f"accuracy of {stage.name}", zero=0.5, bounds=(0.5, 1.0))
            cards.append(card(escape(_reward_name(stage)), drawn, note))
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
    for key, title, safety in (("helpfulness", "Helpfulness score", False), ("safety_score", "Safety score", True)):
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
        "Lines are means. These are the scores that tuning works for; the results above say whether they can be trusted.</p>"
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
    marks = _marks("judge", judged.get("helpfulness"), judged.get("safety"))
    marks += _marks("scores", row.get("helpfulness"), row.get("safety_score"))
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
    return f'{lead}<div class="card">{bar}<div style="height:14px"></div>{table(head, rows, numbers=2)}</div>'


def lineage(story: Story) -> str:
    """Which stage read which, and what each was configured to do."""
    parts = []
    if any(stage.parents for stage in story.stages):
        drawn = figures.graph([(stage.name, stage.parents) for stage in story.stages], "the stages and what they read")
        parts.append(f'<div class="card">{drawn}</div><div style="height:16px"></div>')
    details = [_details(stage) for stage in story.stages if stage.record]
    if details:
        parts.append(f'<div class="card"><h3>Configuration of each stage</h3>{"".join(details)}</div>')
    command = story.description.get("command")
    if command:
        parts.append(f'<div style="height:16px"></div><pre>{escape(" ".join(map(str, command)))}</pre>')
    return "".join(parts)


def _details(stage: StageRun) -> str:
    record = stage.record
    assert record is not None
    settings = "".join(
        f"<div><span>{escape(key)}</span><span>{escape(str(value))}</span></div>"
        for key, value in record.config.items()
    )
    inputs = [[f"<code>{escape(name)}</code>", f"<code>{digest[:16]}</code>"] for name, digest in record.inputs.items()]
    read = table(["Read", "sha256"], inputs) if inputs else ""
    about = f"{escape(record.program)} · key {record.key[:12]} · {escape(str(stage.status.get('state', 'not run')))}"
    body = f'<div class="settings">{settings}</div>{read}'
    return f'<details><summary>{escape(stage.name)} <span class="soft">{about}</span></summary>{body}</details>'
