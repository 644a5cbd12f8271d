"""The card in the terminal: every figure a row, under the group that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ..scoring import SHARES

Figures = dict[str, Any]
LENGTHS = {"matched": "equally long", "chosen_longer": "chosen is longer", "chosen_shorter": "chosen is shorter"}
RULES = {"longer": "longer wins", "shorter": "shorter wins", "refusal": "refusing wins", "random": "random"}


def table(found: Figures, title: str) -> Table:
    """Return the card as a table."""
    shown = Table(title=escape(f"accuracy of {title}"), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for name in ("pairs of", "accuracy", "95 % interval", "pairs"):
        shown.add_column(name, justify="left" if name == "pairs of" else "right")
    files = _short(found["by_file"]) if len(found["by_file"]) > 1 else {}
    lengths = {LENGTHS[name]: part for name, part in found["by_length"].items()}
    rules = {RULES[name]: part for name, part in found["rulers"].items()}
    groups = ({"all": found["overall"]}, found["by_rating"], found["by_bin"], files, lengths, rules)
    for group in (*groups, *_both(found)):
        for name, part in group.items():
            shown.add_row(escape(name), f"{part['accuracy']:.3f}", _interval(part), f"{part['pairs']:,}")
        shown.add_section()
    for key, whole in zip(SHARES, ("unsafe", "safe"), strict=True):
        if found["threshold"][key] is not None:
            shown.add_row(key, f"{found['threshold'][key]:.3f}", "", f"{found['threshold'][whole]:,}")
    for row in _figures(found):
        shown.add_row(*row)
    return shown


def _short(files: Figures) -> Figures:
    """Return figures by the files' names where these tell them apart, else by their paths."""
    names = {path: path.rpartition("/")[2] for path in files}
    return {names[path]: part for path, part in files.items()} if len(set(names.values())) == len(files) else files


def _interval(part: Figures) -> str:
    return "" if part.get("low") is None else f"{part['low']:.3f} to {part['high']:.3f}"


def _both(found: Figures) -> Iterator[Figures]:
    """Yield the accuracy of both models on each kind of preferences, where there are two."""
    if len(found["models"]) > 1:
        kinds = dict.fromkeys(kind for model in found["models"].values() for kind in model["by_kind"])
        for kind in kinds:
            yield {f"{name} model, {kind}": own["by_kind"][kind]["all"] for name, own in found["models"].items()}


def _figures(found: Figures) -> Iterator[tuple[str, str, str, str]]:
    """Yield what is no accuracy: name, value, interval and of how many."""
    measured = {name: rule for name, rule in found["rulers"].items() if "lead" in rule}
    best = max(measured, key=lambda name: measured[name]["accuracy"])
    lead = measured[best]["lead"]
    yield f"lead over {RULES[best]}", f"{lead['difference']:+.3f}", _interval(lead), ""
    if (compared := found["compared"]) is not None:
        lead, names = compared["difference"], list(found["models"])
        yield f"{names[0]} minus {names[1]}", f"{lead['difference']:+.3f}", _interval(lead), ""
        yield "ordered differently", f"{compared['ordered_differently']:.3f}", "", ""
    if (unsafe := found["unsafe"]) and "recall_by_precision" in unsafe:
        how = f"precision {unsafe['precision_by_precision']:.2f} at {unsafe['threshold_by_precision']:.2f} at most"
        yield "recall of unsafe, threshold chosen here", f"{unsafe['recall_by_precision']:.3f}", how, ""
    for name, one in found["calibration"].items():
        count = sum(part["count"] for part in one["bins"])
        yield f"calibration error, {name}", f"{one['ece']:.3f}", "", f"{count:,}"
    for kind, parts in found["correlation"].items():
        for name, rho in parts.items():
            yield f"ρ with {name}, {kind}", f"{rho['mean']:+.3f}", _interval(rho), f"{rho['count']:,} prompts"
    if (several := found["annotators"]) is not None:
        named = {"agreement": "two annotators agree", "ceiling": "most votes", "accuracy": "the model, there"}
        for name, words in named.items():
            yield words, f"{several[name]['accuracy']:.3f}", _interval(several[name]), f"{several['pairs']:,}"
    if (won := found["best_of"]) is not None:
        for name, one in won["subsets"].items():
            left_out = f"{one['incomplete']:,} incomplete left out" if one["incomplete"] else ""
            score = "–" if one["score"] is None else f"{one['score']:.3f}"
            yield f"best of several, {escape(name)}", score, left_out, f"{one['questions']:,}"
        if won["score"] is not None:
            yield "best of several, mean", f"{won['score']:.3f}", "", ""
