"""What `benchmark`, `safety_benchmark`, `probe` and `ratings` found, as tables of a page: for the report and the model card.

Read are their JSON files, of any folder: what is read of each stands in a TypedDict below. A figure with its interval is

    {"mean": 0.61, "low": 0.58, "high": 0.63, "count": 520}

A file that is damaged is left out, with a warning; what it lacks is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from llamatrain.manifest import STEP
from llamatrain.replaced import NAME as REPLACED
from llamatrain.runs import Row, decimals, is_number, read_json

from .parts import Card, Cell, Table, spread


class Benchmarks(TypedDict, total=False):
    """benchmark.json: groups with `title`, `paper` (size -> percent), `score`, `low`, `high`, and `members` alike with `rows`."""

    checkpoint: dict[str, Any]
    suite: str
    reference: str
    groups: list[dict[str, Any]]


class Safety(TypedDict, total=False):
    """safety_benchmark.json: set -> measure -> figure; `reference` with the paper's figures by model."""

    checkpoint: str | None
    sets: dict[str, dict[str, Any]]
    not_measured: dict[str, str]
    reference: dict[str, Any]


class Probes(TypedDict, total=False):
    """probe.json: figures by their names, of one kind of probes."""

    checkpoint: str
    kind: str


class Ratings(TypedDict, total=False):
    """ratings.json: a row per pair of systems, per model rated for safety, per round of red teaming."""

    side_by_side: list[dict[str, Any]]
    safety: list[dict[str, Any]]
    red_team: list[dict[str, Any]]
    fixed: list[dict[str, Any]]


BENCHMARK, SAFETY, PROBE, RATINGS = "benchmark.json", "safety_benchmark.json", "probe.json", "ratings.json"
KINDS: Mapping[str, Any] = {BENCHMARK: Benchmarks, SAFETY: Safety, PROBE: Probes, RATINGS: Ratings}
SETS = {"truthfulqa": "TruthfulQA", "toxigen": "ToxiGen", "bold": "BOLD", "xstest": "XSTest"}
PLAINLY = {"right": "right with tools", "called": "called a tool", "no room": "no room in the context for an answer"}


class Measured(NamedTuple):
    """What lies in one file: about which model, and what."""

    model: str
    found: Row


def read(places: Sequence[Path], file: str) -> list[Measured]:
    """Return what files of this name say in some folders, the models in the order of a pipeline's stages."""
    rows = [row for place in places if (row := read_json(place / file, KINDS[file]))]
    stages = [name for place in places for name in read_json(place / "pipeline.json").get("stages") or ()]
    named = [(model_of(row.get("checkpoint")), row) for row in rows]
    named.sort(key=lambda one: stages.index(one[0]) if one[0] in stages else len(stages))
    names = [name for name, _ in named]
    return [
        Measured(name if names.count(name) == 1 else f"{name} {_step(row.get('checkpoint'))}".strip(), row)
        for name, row in named
    ]


def model_of(checkpoint: Any) -> str:
    """Return what a checkpoint is called: its run's name."""
    path = Path(_path(checkpoint))
    if STEP.fullmatch(path.name) and path.parent.name == "checkpoints":
        path = path.parent.parent
    return path.parent.name if path.name == "final" else path.name


def _path(checkpoint: Any) -> str:
    return str((checkpoint.get("path") if isinstance(checkpoint, dict) else checkpoint) or "given responses")


def _step(checkpoint: Any) -> str:
    name = Path(_path(checkpoint)).name
    return f"step {int(name.removeprefix('step_')):,}" if STEP.fullmatch(name) else name


# --- figures -----------------------------------------------------------------------------------------------------


def figures(found: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Row]]:
    """Yield (words, figure) of everything with a mean, whatever it lies in."""
    for key, value in found.items():
        words = f"{above}{', ' if above else ''}{_words(key)}" if key else above
        if isinstance(value, dict) and is_number(value.get("mean")):
            yield words, value
        elif isinstance(value, dict):
            yield from figures(value, above if key.startswith("by_") else words)
        elif isinstance(value, list):
            for one in value:
                if isinstance(one, dict) and is_number(one.get("mean")) and is_number(one.get("temperature")):
                    yield f"{words}, T {one['temperature']:g}", one


def _words(key: str) -> str:
    return SETS.get(key, key.replace("_", " "))


def _percent(figure: Mapping[str, Any] | None, key: str = "mean", words: str = "") -> Cell | str:
    """Return a share in percent with its interval; by its words a figure may be no share, but a difference or a sentiment."""
    if figure is None or not is_number(figure.get(key)):
        return "–"
    low, high = figure.get("low"), figure.get("high")
    if words.endswith("sentiment"):
        return Cell(decimals(figure[key], 3, "+"), spread(low, high), strong=True)
    within = spread(100 * low, 100 * high, 1) if is_number(low) and is_number(high) else ""
    return Cell(decimals(100 * figure[key], 1, "+" if words.endswith("gain") else ""), within, strong=True)


# --- tables ------------------------------------------------------------------------------------------------------


def benchmarks(measured: Sequence[Measured]) -> list[Card]:
    """Return the groups with their members, a column a model, beside the paper's figures by size (paper table 3)."""
    groups = {str(group["name"]): group for one in measured for group in one.found.get("groups") or []}
    if not groups:
        return []
    sizes = list(dict.fromkeys(size for group in groups.values() for size in group.get("paper") or {}))
    rows = list[list[Cell | str]]()
    for name, group in groups.items():
        own = [_named(one.found.get("groups"), name) for one in measured]
        paper = [
            decimals(value, 1) if is_number(value := (group.get("paper") or {}).get(size)) else "" for size in sizes
        ]
        told: list[Cell | str] = [_percent(found, "score") if found else "–" for found in own]
        title = Cell(str(group.get("title") or name), _lacking([one for one in own if one]), strong=True)
        rows.append([title, "", *told, *paper])
        members = dict.fromkeys(str(one["name"]) for found in own for one in (found or {}).get("members") or [])
        for member in members:
            parts = [_named((found or {}).get("members"), member) for found in own]
            there = next(part for part in parts if part)
            cells = [_plain(_percent(part, "score")) for part in parts]
            rows.append(
                [
                    Cell(f"{member}, {there['shots']}-shot", kind="soft"),
                    f"{there['rows']:,}",
                    *cells,
                    *[""] * len(sizes),
                ]
            )
    head = ["Benchmark", "Rows", *(one.model for one in measured), *(f"Llama 2 {size}" for size in sizes)]
    note = "in percent, with 95 % intervals; the paper's own figures are from another, undisclosed set-up"
    return [Card("Academic benchmarks", note, table=Table(head, rows))]


def _lacking(found: Sequence[Row]) -> str:
    """Return why a group has no score; nothing where a model has one."""
    if any(is_number(one.get("score")) for one in found):
        return ""
    return next((str(one["left_out"]) for one in found if one.get("left_out")), "not all of its benchmarks measured")


def _named(rows: Any, name: str) -> Row | None:
    return next((row for row in rows or [] if row.get("name") == name), None)


def _plain(cell: Cell | str) -> Cell | str:
    return cell if isinstance(cell, str) else Cell(cell.text, cell.note)


def safety(measured: Sequence[Measured]) -> list[Card]:
    """Return every set's figures, a column a model, and the paper's (paper tables 11 and 14)."""
    title = "Automatic safety benchmarks"
    own = [{name: _headlines(found) for name, found in (one.found.get("sets") or {}).items()} for one in measured]
    note = "in percent, sentiment from −1 to 1; with 95 % intervals"
    made = [Card(title, note, table=_by_figure([one.model for one in measured], own, "Prompts"))]
    paper: Row = next((one.found["reference"] for one in measured if one.found.get("reference")), {})
    names = list(dict.fromkeys(name for figures_ in (paper.get("models") or {}).values() for name in figures_))
    rows: list[list[Cell | str]] = [
        [Cell(model, strong=True), *(decimals(100 * value[name], 2) if name in value else "–" for name in names)]
        for model, value in (paper.get("models") or {}).items()
    ]
    if rows:
        head = ["Model", *map(_words, names)]
        made.append(Card("The paper's safety benchmarks", "in percent, by other judges", table=Table(head, rows)))
    return made


def _headlines(found: Row) -> Row:
    """Return a set's own figures, without those of its groups."""
    return {key: value for key, value in found.items() if not key.startswith("by_")}


def probes(measured: Sequence[Measured]) -> list[Card]:
    """Return the figures of each kind of probes (paper 5.1)."""
    kinds = dict.fromkeys(str(one.found.get("kind") or "probes") for one in measured)
    made = []
    for kind in kinds:
        own = [one for one in measured if str(one.found.get("kind") or "probes") == kind]
        told = _by_figure([one.model for one in own], [one.found for one in own], "Probes")
        made.append(Card(f"Probes: {kind}", "in percent, with 95 % intervals", table=told))
    return made


def _by_figure(models: Sequence[str], found: Sequence[Row], counted: str) -> Table:
    """Return a row a figure and a column a model."""
    own = [dict(figures(one)) for one in found]
    rows = list[list[Cell | str]]()
    for words in dict.fromkeys(words for one in own for words in one):
        count = next(one[words].get("count") for one in own if words in one)
        cells = [_percent(one.get(words), words=words) for one in own]
        above, comma, measure = words.rpartition(", ")
        shown = f"{above}{comma}{PLAINLY.get(measure, measure)}"
        rows.append([shown, f"{count:,}" if is_number(count) else "–", *cells])
    return Table(["Measure", counted, *models], rows)


def people(measured: Sequence[Measured]) -> list[Card]:
    """Return what raters preferred, how safe they found answers, and what red teams found (paper 3.4.2, 4.3, 4.4)."""
    made = list[Card]()
    for one in measured:
        found = one.found
        if rows := [_pair(pair) for pair in found.get("side_by_side") or []]:
            head = ["Systems", "Prompts", "Raters", "Win", "Tie", "Loss", "AC2"]
            note = "in percent of prompts, with 95 % intervals; Gwet's AC2 says how far raters agree"
            made.append(Card("Which answers people prefer", note, table=Table(head, rows)))
        if rows := [_rated(model) for model in found.get("safety") or []]:
            head = ["Model", "Answers", "Raters", "Violations", "Mean rating (1 to 5)", "AC2"]
            made.append(Card("How safe people find answers", "violations in percent", table=Table(head, rows)))
        if rows := [_attacked(part) for part in found.get("red_team") or []]:
            head = ["Model", "Round", "People", "Hours", "Attacks", "Gamma"]
            note = "gamma: violating prompts found per person and hour"
            made.append(Card("Red teaming", note, table=Table(head, rows)))
        if rows := [_asked_again(part) for part in found.get("fixed") or []]:
            head = ["Model", "Round of the attacks", "Prompts", "Answered safely"]
            note = "attacks that had found a violation, put to a later model; in percent"
            made.append(Card("Earlier violating prompts", note, table=Table(head, rows)))
    return made


def _pair(pair: Row) -> list[Cell | str]:
    name = f"{pair.get('system_a')} over {pair.get('system_b')}"
    shares = [_percent(pair.get(key)) for key in ("win", "tie", "loss")]
    return [Cell(name, strong=True), _count(pair, "prompts"), _count(pair, "raters"), *shares, _agreement(pair)]


def _rated(model: Row) -> list[Cell | str]:
    rating: Row = model.get("mean_rating") or {}
    mean = Cell(decimals(rating["mean"], 2), spread(rating.get("low"), rating.get("high"), 2)) if rating else "–"
    name = Cell(str(model.get("model")), strong=True)
    counts = [_count(model, key) for key in ("answers", "raters")]
    return [name, *counts, _percent(model.get("violations")), mean, _agreement(model)]


def _attacked(part: Row) -> list[Cell | str]:
    gamma: Row = part.get("gamma") or {}
    told = Cell(decimals(gamma["mean"], 2), spread(gamma.get("low"), gamma.get("high"), 2), True) if gamma else "–"
    hours = decimals(part["hours"], 2) if is_number(part.get("hours")) else "–"
    name = Cell(str(part.get("model")), strong=True)
    return [name, _count(part, "round"), _count(part, "people"), hours, _count(part, "attacks"), told]


def _asked_again(part: Row) -> list[Cell | str]:
    share: Row = part.get("fixed") or {}
    return [Cell(str(part.get("model")), strong=True), _count(part, "round"), _count(share, "count"), _percent(share)]


def _count(row: Row, key: str) -> str:
    return f"{row[key]:,}" if is_number(row.get(key)) else "–"


def _agreement(row: Row) -> Cell | str:
    found: Row = row.get("agreement") or {}
    within = spread(found.get("low"), found.get("high"), 2)
    return Cell(decimals(found["value"], 2), within) if is_number(found.get("value")) else "–"


TABLES = {BENCHMARK: benchmarks, SAFETY: safety, PROBE: probes, RATINGS: people}


def below(folder: Path) -> list[Path]:
    """Return a folder and those in it, in which results may lie; former results are left out."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not REPLACED.fullmatch(path.name))
    return [folder, *inside]


def tables(places: Sequence[Path], file: str) -> list[Card]:
    """Return the tables of what files of this name say in some folders; none where there are none."""
    found = read(places, file)
    return TABLES[file](found) if found else []
