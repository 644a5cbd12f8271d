"""The card as rows of words: in the terminal all of it, on the report's page what is not drawn there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

Figures = dict[str, Any]
Row = tuple[str, str, str, str]  # what, its value, its interval or a note, and of how many
LENGTHS = {"matched": "equally long", "chosen_longer": "chosen is longer", "chosen_shorter": "chosen is shorter"}
RULES = {"longer": "longer wins", "shorter": "shorter wins", "refusal": "refusing wins", "random": "random"}
THRESHOLDS = {  # of sigmoid scores: what -> in words, and of which responses
    "unsafe_recall": ("unsafe responses below 0.5", "unsafe"),
    "safe_below_0.15": ("safe responses below 0.15", "safe"),
}


def table(found: Figures, title: str) -> Table:
    """Return the card as a table."""
    shown = Table(title=escape(f"accuracy of {title}"), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for name in ("pairs of", "accuracy", "95 % interval", "pairs"):
        shown.add_column(name, justify="left" if name == "pairs of" else "right")
    lengths = {LENGTHS[name]: part for name, part in found["by_length"].items()}
    rules = {RULES[name]: part for name, part in found["rulers"].items()}
    groups = ({"all": found["overall"]}, found["by_rating"], found["by_bin"], lengths, rules)
    for group in (*groups, *_both(found)):
        for name, part in group.items():
            shown.add_row(*map(escape, _share(name, part)))
        shown.add_section()
    for row in figures(found):
        shown.add_row(*map(escape, row))
    return shown


def figures(found: Figures) -> Iterator[Row]:
    """Yield what the report does not draw."""
    yield from _files(found["models"])
    for name, rule in found["rulers"].items():
        if lead := rule.get("lead"):
            yield f"lead over {RULES[name]}", f"{lead['difference']:+.3f}", _interval(lead), ""
    if (compared := found["compared"]) is not None:
        lead, names = compared["difference"], list(found["models"])
        yield f"{names[0]} minus {names[1]}", f"{lead['difference']:+.3f}", _interval(lead), ""
        yield "ordered differently", f"{compared['ordered_differently']:.3f}", "", ""
    yield from _unsafe(found)
    for name, one in found["calibration"].items():
        count = sum(part["count"] for part in one["bins"])
        yield f"calibration error, {name}", f"{one['ece']:.3f}", "", f"{count:,}"
    for kind, parts in found["correlation"].items():
        for name, rho in parts.items():
            yield f"ρ with {name}, {kind}", f"{rho['mean']:+.3f}", _interval(rho), f"{rho['count']:,} prompts"
    if (several := found["annotators"]) is not None:
        named = {"agreement": "two annotators agree", "ceiling": "most votes", "accuracy": "the model, there"}
        for name, words in named.items():
            yield _share(words, {**several[name], "pairs": several["pairs"]})
    yield from _best_of(found["best_of"])
    for kind, one in found["scores"].items():
        spread = f"deviation {one['deviation']:.2f}, 5 to 95 %: {one['q05']:+.2f} to {one['q95']:+.2f}"
        yield f"mean score, {kind}", f"{one['mean']:+.3f}", spread, f"{one['responses']:,}"


def _share(name: str, part: Figures) -> Row:
    return name, f"{part['accuracy']:.3f}", _interval(part), f"{part['pairs']:,}"


def _interval(part: Figures) -> str:
    return "" if part.get("low") is None else f"{part['low']:.3f} to {part['high']:.3f}"


def _files(models: Figures) -> Iterator[Row]:
    """Yield the accuracy of each model on each file, where there are several: table 7 of the paper."""
    for model, own in models.items():
        paths = own["by_file"]
        names = _told_apart(list(paths))
        for path, part in paths.items() if len(paths) > 1 else ():
            name = names[path]
            yield _share(f"{model} model, {name}" if len(models) > 1 else name, part)


def _told_apart(paths: list[str]) -> dict[str, str]:
    """Return path -> the file's name where the names differ, else the parts of it that are not in all paths."""
    parts = {path: _parts(path) for path in paths}
    shared = set.intersection(*map(set, parts.values())) if parts else set()
    names = {path: own[-1] for path, own in parts.items()}
    apart = {path: "/".join(part for part in own if part not in shared) or path for path, own in parts.items()}
    whole = {path: path for path in paths}
    return next(told for told in (names, apart, whole) if len(set(told.values())) == len(set(paths)))


def _parts(path: str) -> list[str]:
    """Return a path's folders and its file with the share of it that is read (`@fold0/5`)."""
    file, at, share = path.partition("@")
    *folders, name = file.split("/")
    return [*folders, name + at + share]


def _both(found: Figures) -> Iterator[Figures]:
    """Yield the accuracy of both models on each kind of preferences, where there are two."""
    if len(found["models"]) > 1:
        kinds = dict.fromkeys(kind for model in found["models"].values() for kind in model["by_kind"])
        for kind in kinds:
            yield {f"{name} model, {kind}": own["by_kind"][kind]["all"] for name, own in found["models"].items()}


def _unsafe(found: Figures) -> Iterator[Row]:
    """Yield how scores of labelled responses lie about thresholds."""
    for key, (words, whole) in THRESHOLDS.items():
        if found["threshold"][key] is not None:
            yield words, f"{found['threshold'][key]:.3f}", "", f"{found['threshold'][whole]:,}"
    if (unsafe := found["unsafe"]) and "recall_by_precision" in unsafe:
        how = f"precision {unsafe['precision_by_precision']:.2f} at {unsafe['threshold_by_precision']:.2f} at most"
        yield "recall of unsafe, threshold chosen here", f"{unsafe['recall_by_precision']:.3f}", how, ""


def _best_of(won: Figures | None) -> Iterator[Row]:
    if won is None:
        return
    for name, one in won["subsets"].items():
        left_out = f"{one['incomplete']:,} incomplete left out" if one["incomplete"] else ""
        score = "–" if one["score"] is None else f"{one['score']:.3f}"
        yield f"best of several, {name}", score, left_out, f"{one['questions']:,}"
    if won["score"] is not None:
        yield "best of several, mean", f"{won['score']:.3f}", "", ""
