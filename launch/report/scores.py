"""The report's view of reward-model scores: as logits, among tuned models only, and held against the gold judge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import TypedDict, TypeVar

from llamatrain.description import Against, BestOf, Trials
from llamatrain.order_statistics import best_weights, median_weights
from llamatrain.pages.parts import Card
from llamatrain.runs import Row, decimals, is_number, read_lines

from ..stage_run import StageRun
from ..story import Story, gold, is_adversarial, logit
from . import figures
from .figures import NARROW, WIDE, Line

KINDS = {False: ("harmless prompts", 1), True: ("adversarial prompts", 5)}  # is it adversarial -> its name and colour
MOST_SIZES = 24  # of K that are drawn
MOST_DOTS, TENTHS = 400, 10  # responses of a model, and the parts of them whose means make a line
A = TypeVar("A", BestOf, Trials, Against)


def scores(story: Story) -> Row | None:
    """Return best of K, score and judge over the KL, the distributions of scores, and what the judge makes of them."""
    found = {
        "best": [card for stage, about in _described(story, BestOf) for card in best_of(story, stage, about)],
        "trials": [card for stage, about in _described(story, Trials) for card in trials(stage, about)],
        "course": [card for stage, about in _described(story, Against) for card in over_course(story, stage, about)],
        "against": _against_judge(story),
        "distributions": _distributions(story),
    }
    return dict(found) if any(found.values()) else None


def _described(story: Story, kind: type[A]) -> Iterator[tuple[StageRun, A]]:
    for stage in story.stages:
        for chart in stage.about.charts:
            if isinstance(chart, kind):
                yield stage, chart


def _score(row: Row) -> float | None:
    return logit(row["combined"]) if is_number(row.get("combined")) else None


# --- best of K ---------------------------------------------------------------------------------------------------


def best_of(story: Story, stage: StageRun, about: BestOf) -> list[Card]:
    """Return what keeping the best of K by the combined score brings: in that score, and by the judge."""
    rows = [row for row in story.judged(stage, about.file) if is_number(row.get("combined"))]
    groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.get("prompt_id"))]
    most = max(map(len, groups), default=0)
    groups = [group for group in groups if len(group) == most]
    if most < 2:
        return []
    sizes = sorted({1, most, *range(1, most + 1, math.ceil(most / MOST_SIZES))})
    cards, judged_lines = [], []
    for kind, (name, colour) in KINDS.items():
        own = [group for group in groups if is_adversarial(group[0]) == kind]
        ranked = [value for group in own if (value := _by_score(group, _score)) is not None]
        if not ranked:
            continue
        ordered = [sorted(values) for values in ranked]
        lines = [
            Line("best", _over(sizes, ranked, best_weights), 1),
            Line("median", _over(sizes, ordered, median_weights), 2),
            Line("mean", [(float(k), fmean(map(fmean, ordered))) for k in sizes], 0),
        ]
        cards.append(
            _card(f"Best of K, {name}", stage, lines, "combined score (logit)", "K samples per prompt", NARROW)
        )
        judged = [value for group in own if (value := _by_score(group, gold)) is not None]
        if judged:
            judged_lines.append(Line(name, _over(sizes, judged, best_weights), colour))
    if judged_lines:
        cards.append(
            _card(
                "The best of K, by the gold judge",
                stage,
                judged_lines,
                "gold score of the one kept",
                "K samples per prompt",
                NARROW,
            )
        )
    return cards


def _over(
    sizes: Sequence[int], prompts: Sequence[Sequence[float]], of: Callable[[int, int], list[float]]
) -> list[tuple[float, float]]:
    """Return the mean over prompts for each K, given the weights of a prompt's ordered values."""
    points = []
    for k in sizes:
        weights = of(len(prompts[0]), k)
        points.append((float(k), fmean(sum(w * v for w, v in zip(weights, values, strict=True)) for values in prompts)))
    return points


def _by_score(group: Sequence[Row], value: Callable[[Row], float | None]) -> list[float] | None:
    """Return the values of a prompt's responses, the worst by the rule that keeps the best first; None where one has none."""
    ordered = sorted(group, key=lambda row: (bool(row.get("finished") and row.get("response")), row["combined"]))
    found = [number for row in ordered if (number := value(row)) is not None]
    return found if len(found) == len(ordered) else None


# --- temperatures that were tried --------------------------------------------------------------------------------


class Trial(TypedDict):
    """A row of trials: the scores at a temperature, of the best of K, and of all."""

    temperature: float
    k: int
    best: float
    median: float
    mean: float
    chosen: bool


def trials(stage: StageRun, about: Trials) -> list[Card]:
    """Return the mean, the median and the best of K over the temperature (paper figure 8)."""
    rows = list(read_lines(stage.folder / about.file, Trial))
    most = max((row["k"] for row in rows), default=0)
    full = [row for row in rows if row["k"] == most]
    if len(full) < 2:
        return []
    names = {"best": (f"best of {most}", 1), "median": ("median", 2), "mean": ("mean", 0)}
    lines = [
        Line(name, [(row["temperature"], row[key]) for row in full], colour) for key, (name, colour) in names.items()
    ]
    card = _card("Temperature", stage, lines, "combined score (sigmoid)", "sampling temperature", NARROW)
    chosen = ", ".join(f"{row['temperature']:g}" for row in full if row["chosen"])
    return [replace(card, note=f"{stage.name}: sampled at {chosen}")]


# --- over the course of a run ------------------------------------------------------------------------------------


def over_course(story: Story, stage: StageRun, about: Against) -> list[Card]:
    """Return the score and the gold score of the same rollouts against a number of theirs, a dot per step."""
    judged = story.judged(stage, about.file)
    rows = [row for row in judged if is_number(row.get(about.key)) and is_number(row.get("step"))]
    cards = []
    for title, y_label, value in (
        (f"Score against {about.title}", "combined score (logit)", _score),
        (f"Gold judge against {about.title}", "gold score", gold),
    ):
        lines = []
        for kind, (name, colour) in KINDS.items():
            own = [row for row in rows if is_adversarial(row) == kind]
            dots = _dots(own, about.key, value)
            if len(dots) > 1:  # a single one shows no course
                points, spans = [(x, y) for x, y, _, _ in dots], [(low, high) for _, _, low, high in dots]
                lines.append(Line(name, points, colour, "dots", spans))
        if lines:
            card = _card(title, stage, lines, y_label, about.x_label)
            whole = [(x, y) for x, y, _, _ in _dots(rows, about.key, gold)]  # of all prompts together
            cards.append(replace(card, note=f"{stage.name}: {_best(whole, about, 'gold')}") if value is gold else card)
    return [*cards, *_held_out(stage, about)]


def _held_out(stage: StageRun, about: Against) -> list[Card]:
    """Return the score of held-out prompts in the course of a run, by models that may be others than it learns from."""
    known = {0.0: 0.0, **dict(stage.series.get(about.over, ()))}  # nothing has moved before the first step
    dots = sorted((known[step], value) for step, value in stage.series.get(about.held_out, ()) if step in known)
    if len(dots) < 2:
        return []
    title = f"Held-out prompts against {about.title}"
    card = _card(title, stage, [Line("held-out", dots, 1, "dots")], "combined score (logit)", about.x_label)
    return [replace(card, note=f"{stage.name}: {_best(dots, about, 'held-out')}", legend=())]


def _best(dots: Sequence[tuple[float, float]], about: Against, whose: str) -> str:
    """Return in words where a score is best: beyond it the policy is over-optimised."""
    x, y = max(dots, key=lambda dot: dot[1])
    if (x, y) == dots[-1]:
        return f"best {whose} score {y:.3f} at the largest {about.title}, {x:.2f}"
    return f"best {whose} score {y:.3f} at {about.title} {x:.2f}, {dots[-1][1]:.3f} at the largest"


def _dots(
    rows: Sequence[Row], key: str, value: Callable[[Row], float | None]
) -> list[tuple[float, float, float, float]]:
    """Return each step's mean of `key`, and its mean value with the interval's ends, from left to right."""
    steps: dict[float, list[tuple[float, float]]] = {}
    for row in rows:
        found = value(row)
        if found is not None:
            steps.setdefault(row["step"], []).append((row[key], found))
    dots = []
    for _, pairs in sorted(steps.items()):
        xs, ys = zip(*pairs, strict=True)
        dots.append((fmean(xs), *_interval(ys)))
    # The number need not grow with the steps: a KL may fall again.
    return sorted(dots)


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return a mean and its 95 % interval."""
    mean = fmean(values)
    half = 1.96 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, mean - half, mean + half


def _card(title: str, stage: StageRun, lines: Sequence[Line], y_label: str, x_label: str, width: int = WIDE) -> Card:
    drawn = figures.line_chart(lines, x_label, y_label, f"{title}, {stage.name}", width)
    return Card(title, stage.name, drawn, [(line.name, line.colour) for line in lines])


# --- responses to held-out prompts -------------------------------------------------------------------------------


def _distributions(story: Story) -> list[Card]:
    cards = []
    for key, title, adversarial in (
        ("helpfulness", "Helpfulness score", False),
        ("safety_score", "Safety score", True),
    ):
        scored = story.scored(key, adversarial)
        if scored:
            rows = [(model, [logit(row[key]) for row in rows], story.colours[model]) for model, rows in scored.items()]
            both = any(len(rows) < len(story.responses[model]) for model, rows in scored.items())
            drawn = figures.ridges(rows, "score (logit)", f"distribution of the {title.lower()}")
            cards.append(Card(title, f"on {KINDS[adversarial][0]}" if both else "", drawn))
    return cards


def _against_judge(story: Story) -> list[Card]:
    """Return the helpfulness score against the gold score, on harmless prompts, a figure per model."""
    scored: dict[str, list[tuple[float, float]]] = {}
    for model, rows in story.scored("helpfulness", adversarial=False).items():
        pairs = [(logit(row["helpfulness"]), value) for row in rows if (value := gold(row)) is not None]
        if len(pairs) >= TENTHS:  # else a tenth of them is none
            scored[model] = pairs
    every = [score for pairs in scored.values() for score, _ in pairs]
    models = ((story.evaluation.get("by_kind") or {}).get("harmless") or {}).get("models") or {}
    cards = []
    for model, pairs in scored.items():
        ordered = sorted(pairs)
        cuts = [len(ordered) * i // TENTHS for i in range(TENTHS + 1)]
        line = []
        for first, end in itertools.pairwise(cuts):
            xs, ys = zip(*ordered[first:end], strict=True)
            line.append((fmean(xs), fmean(ys)))
        dots = ordered[:: math.ceil(len(ordered) / MOST_DOTS)]
        about = f"helpfulness score of {model} against the gold score"
        bounds = (min(every), max(every))
        drawn = figures.scatter(dots, line, "score (logit)", "gold score", about, story.colours[model], bounds)
        cards.append(Card(model, _rho((models.get(model) or {}).get("spearman_helpfulness") or {}), drawn))
    return cards


def _rho(found: Row) -> str:
    rho = f"ρ {decimals(found['mean'], 2)}" if is_number(found.get("mean")) else ""
    if is_number(found.get("low")) and is_number(found.get("high")):
        rho += f" ({decimals(found['low'], 2)} to {decimals(found['high'], 2)})"
    return rho
