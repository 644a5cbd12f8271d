"""The report's results: every model's measures with their intervals, and the paired differences."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamatrain.description import Course, Measure
from llamatrain.pages.parts import Card, Cell, Table, spread
from llamatrain.runs import Row, decimals, is_number

from ..story import Story
from . import figures
from .figures import Interval, Line


def measure_of(story: Story, metric: str) -> Measure:
    """Return what is known of a metric."""
    known = story.measured[0].known.get(metric)
    return known or Measure(metric.replace("_", " ").capitalize())


def results(story: Story) -> Row | None:
    """Return every model's measures with 95 % intervals, and the paired differences."""
    models: dict[str, Row] = story.evaluation.get("models") or {}
    if not models:
        return None
    about, _ = story.measured
    with_interval = _with_interval(story, models)
    kinds = _by_kind(story)
    told = set(itertools.chain(*about.of_kind.values())) if kinds else set[str]()
    plain = [metric for metric in _metrics(story, models, is_number) if metric not in told]
    givers = dict.fromkeys(measure_of(story, metric).by for metric in with_interval)
    means = [
        Card("Means", by, table=_models_table(story, models, list(metrics)))
        for by, metrics in itertools.groupby(with_interval, key=lambda metric: measure_of(story, metric).by)
    ]
    differences = _differences(story)
    rounds = _over_baseline(story)
    return {
        "baseline": story.evaluation.get("baseline") if rounds else "",
        "rounds": rounds,
        "courses": [made for course in about.courses if (made := _course(story, models, course))],
        "prompts": _count(story.evaluation.get("prompts")),
        "each": _count(story.evaluation.get("samples_per_prompt")),
        "about": [words for by, words in about.by.items() if by in givers],
        "means": kinds or means,
        "plain": Card("Also measured", "over all prompts", table=_models_table(story, models, plain))
        if plain
        else None,
        "differences": differences[:1],
        "more_differences": differences[1:],
    }


def charts(story: Story) -> list[Card]:
    """Return the two measures that count first, of every model."""
    models: dict[str, Row] = story.evaluation.get("models") or {}
    return [_metric_card(story, models, metric) for metric in _with_interval(story, models)[:2]]


def _with_interval(story: Story, models: Mapping[str, Row]) -> list[str]:
    courses = tuple(course.prefix for course in story.measured[0].courses)
    found = _metrics(story, models, lambda value: isinstance(value, dict) and is_number(value.get("mean")))
    return [metric for metric in found if not metric.startswith(courses)]


def _count(value: Any) -> str:
    return f"{value:,}" if is_number(value) and value > 1 else ""


def _models_table(story: Story, models: Mapping[str, Row], metrics: Sequence[str], judged: bool = False) -> Table:
    """Return a row a model and a column a metric, with the interval where there is one; `judged`: who gives it is told."""
    rows: list[list[Cell | str]] = []
    for model, measured in models.items():
        cells: list[Cell | str] = [Cell(model, strong=True, colour=story.colours.get(model, 0))]
        for metric in metrics:
            value, digits = measured.get(metric), measure_of(story, metric).digits
            if isinstance(value, dict):
                note = spread(value.get("low"), value.get("high"), digits)
                cells.append(Cell(decimals(value["mean"], digits), note, strong=True))
            else:
                cells.append(decimals(value, digits) if is_number(value) else "–")
        rows.append(cells)
    first = next(iter(story.measured[0].by), "")
    by = f" ({first.removeprefix('by the ')})" if judged else ""
    known = [measure_of(story, metric) for metric in metrics]
    return Table(["Model", *(f"{one.title}{by if one.by and one.by == first else ''}" for one in known)], rows)


def _by_kind(story: Story) -> list[Card]:
    """Return what counts on harmless and on adversarial prompts, a table each."""
    kinds = story.evaluation.get("by_kind") or {}
    if len(kinds) < 2:
        return []
    cards = []
    for kind, part in kinds.items():
        models = part.get("models") or {}
        wanted = story.measured[0].of_kind.get(kind, ())
        metrics = [metric for metric in wanted if any(metric in measured for measured in models.values())]
        count = part.get("prompts")
        note = f"{count:,} prompts" if is_number(count) else ""
        if metrics:
            cards.append(Card(f"On {kind} prompts", note, table=_models_table(story, models, metrics, judged=True)))
    return cards


def _over_baseline(story: Story) -> list[Card]:
    """Return each model's win rate against the baseline in what counts for a kind of prompt (paper figure 11)."""
    baseline, cards = story.evaluation.get("baseline"), []
    for kind, part in (story.evaluation.get("by_kind") or {}).items() if baseline else ():
        metric = next(iter(story.measured[0].of_kind.get(kind, ())), None)
        known = measure_of(story, str(metric))
        rows = [
            Interval(
                str(entry["model"]),
                entry["win_rate"],
                entry.get("win_low"),
                entry.get("win_high"),
                story.colours.get(entry["model"], 1),
                decimals(entry["win_rate"], 2),
            )
            for entry in part.get("comparisons") or []
            if entry.get("baseline") == baseline and entry.get("metric") == metric and is_number(entry.get("win_rate"))
        ]
        if len(rows) > 1:
            title = f"{known.title}: win rate over {baseline}"
            drawn = figures.intervals(rows, f"{title}, on {kind} prompts", zero=0.5, bounds=(0.0, 1.0))
            cards.append(Card(title, f"{known.by}, on {kind} prompts", drawn))
    return cards


def _metrics(story: Story, models: Mapping[str, Row], wanted: Callable[[Any], bool]) -> list[str]:
    found = dict.fromkeys(key for measured in models.values() for key, value in measured.items() if wanted(value))
    known = list(story.measured[0].known)
    return sorted(found, key=lambda key: known.index(key) if key in known else len(known))


def _metric_card(story: Story, models: Mapping[str, Row], metric: str) -> Card:
    values = {model: measured[metric] for model, measured in models.items() if isinstance(measured.get(metric), dict)}
    known = measure_of(story, metric)
    rows = []
    for model, value in values.items():
        mean, low, high = value["mean"], value.get("low"), value.get("high")
        if known.bounds and is_number(low) and is_number(high):  # an interval beyond them means nothing there
            low, high = max(known.bounds[0], low), min(known.bounds[1], high)
        rows.append(Interval(model, mean, low, high, story.colours[model], decimals(mean, known.digits)))
    return Card(known.title, known.by, figures.intervals(rows, f"{known.title} of every model", bounds=known.bounds))


def _course(story: Story, models: Mapping[str, Row], about: Course) -> Row | None:
    """Return how the numbers of each model go over those in their names, drawn and as a table; None where there are none."""
    lines, rows = list[Line](), list[tuple[str, dict[int, Row]]]()
    for model, measured in models.items():
        names = {key: key.removeprefix(about.prefix) for key in measured if key.startswith(about.prefix)}
        found = {int(number): measured[key] for key, number in names.items() if number.isdecimal()}
        if found:
            places = sorted(found)
            points = [(float(place), float(found[place]["mean"])) for place in places]
            ends = [(found[place].get("low"), found[place].get("high")) for place in places]
            spans = [(low, high) for low, high in ends if is_number(low) and is_number(high)]
            colour = story.colours.get(model, 0)
            lines.append(Line(model, points, colour, "dots", spans if len(spans) == len(points) else []))
            rows.append((model, found))
    if not rows:
        return None
    places = sorted({place for _, found in rows for place in found})
    cells = [
        [Cell(model, strong=True, colour=story.colours.get(model, 0)), *(_place(found.get(place)) for place in places)]
        for model, found in rows
    ]
    drawn = figures.line_chart(lines, about.x_label, about.y_label, f"{about.title}, by {about.x_label}")
    head = ["Model", *(f"{about.x_label.capitalize()} {place}" for place in places)]
    cards = [Card(about.title, drawing=drawn), Card(about.title, "and 95 % intervals", table=Table(head, cells))]
    return {"about": about.note, "cards": cards}


def _place(value: Row | None) -> Cell | str:
    if value is None:
        return "–"
    return Cell(decimals(value["mean"], 3), spread(value.get("low"), value.get("high"), 2), strong=True)


def _differences(story: Story) -> list[Card]:
    """Return the paired differences between models, on the same prompts: the judge's, and apart from them the rest."""
    tables = dict[str, list[list[Cell | str]]]()
    for entry in story.evaluation.get("comparisons") or []:
        difference, low, high = (entry.get(key) for key in ("difference", "low", "high"))
        if not is_number(difference):
            continue
        sure = is_number(low) and is_number(high) and not low <= 0 <= high
        kind = ("better" if difference > 0 else "worse") if sure else ""
        known = measure_of(story, str(entry.get("metric")))
        rate, span = entry.get("win_rate"), spread(entry.get("win_low"), entry.get("win_high"), 2)
        equal = entry.get("win_rate_at_equal_length")
        equal_span = spread(entry.get("win_low_at_equal_length"), entry.get("win_high_at_equal_length"), 2)
        tables.setdefault(known.by, []).append(
            [
                f"{entry.get('model')} − {entry.get('baseline')}",
                known.title,
                Cell(decimals(difference, known.digits, "+"), spread(low, high, known.digits), True, kind),
                Cell(decimals(rate, 2), span) if is_number(rate) else "–",
                Cell(decimals(equal, 2), equal_span) if is_number(equal) else "–",
            ]
        )
    head, order = ["Models", "Measure", "Difference", "Win rate", "At equal length"], list(story.measured[0].by)
    ordered = sorted(tables.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    return [Card("Paired differences", by, table=Table(head, rows, numbers=2)) for by, rows in ordered]
