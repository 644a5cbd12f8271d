"""Reading what programs left in their run folders: what is missing reads as empty, what is damaged too, with a warning."""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypedDict, TypeGuard

from llamatrain import text_files
from llamatrain.description import Headline
from llamatrain.errors import UserError, mistake
from llamatrain.hardware import NODE
from llamatrain.run_files import METRICS, STATUS, Logged, Status

Row = dict[str, Any]


class Response(TypedDict, total=False):
    """What is shown of a line of responses.jsonl."""

    prompt_id: str
    messages: list[dict[str, Any]]
    response: str


class Judged(TypedDict, total=False):
    """What is shown of a line of judgements.jsonl."""

    prompt_id: str
    reasons: list[str]


class Shared(TypedDict, total=False):
    """What is shown of a file of shares."""

    overall: dict[str, Any]


@cache
def warn(text: str) -> None:
    """Say, once, what is left out."""
    print(f"warning: {text}; it is left out", file=sys.stderr)


def skip(error: Exception) -> None:
    """Say what is left out, and why."""
    warn(mistake(error) or str(error))


def read_json(path: Path, kind: Any = Row) -> Row:
    """Return the object in a JSON file; an empty one where there is none or it cannot be read."""
    try:
        return dict(text_files.read_json(path, kind))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (UserError, OSError) as error:
        skip(error)
    return {}


def read_status(folder: Path) -> Row:
    """Return a run's status.json."""
    return read_json(folder / STATUS, Status)


def ranks_per_node(status: Row, ranks: int) -> int:
    """Return how many of a run's ranks a node had; those of earlier versions, and of some launchers, do not say it."""
    found = status.get("environment", {}).get("ranks_per_node")
    return min(ranks, found if isinstance(found, int) and found > 0 else NODE)


def read_lines(path: Path, kind: Any = Row) -> Iterator[Row]:
    """Yield the objects of a JSONL file; a last line that is still being written is left out."""
    try:
        yield from text_files.read_lines(path, kind, bad=skip, grows=True)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (UserError, OSError) as error:
        skip(error)


def read_series(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return every metric of a run as (step, value) points; a step logged again replaces the earlier value."""
    series: dict[str, dict[float, float]] = {}
    for row in read_lines(folder / METRICS, Logged):
        step = row["step"]
        for name, value in row.items():
            if name not in ("step", "time") and is_number(value):
                series.setdefault(name, {})[float(step)] = float(value)
    return {name: sorted(points.items()) for name, points in series.items()}


def parameters(folder: Path) -> int:
    """Return how many parameters a checkpoint has; 0 where its weights cannot be read."""
    count = 0
    for path in folder.glob("*.safetensors"):
        try:
            with path.open("rb") as file:
                # safetensors: eight bytes with the header's length, then the header, JSON with every tensor's shape.
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, MemoryError, OverflowError):
            return 0
    return count


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def figure(value: float) -> str:
    """Write a number for people: counts whole and grouped, anything else with three decimals, or four where three are 0."""
    if 0 < abs(value) < 0.0005:
        return decimals(value, 4)
    if value == 0 or abs(value) >= 1000 or (value == int(value) and abs(value) >= 2):
        return decimals(value, 0)
    return decimals(value, 3)


def decimals(value: float, digits: int, sign: str = "") -> str:
    """Write a number with so many decimals and a true minus sign, with `sign` + before a gain; nothing is −0.000."""
    text = f"{value:{sign},.{digits}f}"
    return (text if text.strip("+-0.") else text.lstrip("+-")).replace("-", "−")


def headline(folder: Path, shown: Headline) -> str:
    """Return a run's result in two figures."""
    whose, figures = headline_figures({name: points[-1][1] for name, points in read_series(folder).items()}, shown)
    return whose + ", ".join(f"{words} {number}" for words, number in figures[:2])


def headline_figures(last: Mapping[str, float], shown: Headline) -> tuple[str, list[tuple[str, str]]]:
    """Return whose result it is, and (words, number) of each figure, from the newest value of each metric."""
    metrics, whose = shown.metrics, shown.whose
    if shown.best_of:
        numbers = sorted(int(name.removeprefix(shown.best_of)) for name in last if name.startswith(shown.best_of))
        if numbers:
            first, most = (f"{last[f'{shown.best_of}{numbers[place]}']:.2f}" for place in (0, -1))
            return "score (0 to 1), ", [(f"best of {numbers[0]}:", first), (f"best of {numbers[-1]}:", most)]
    if shown.of_last:
        metrics, whose = {}, ""
        models = [name.partition("/")[0] for name in last if "/" in name]
        for by, names in shown.of_last.items() if models else ():
            own = {f"{models[-1]}/{metric}": words for metric, words in names.items()}
            if next(iter(own)) in last:  # the best of what there is: without a judge, the reward models' scores
                metrics, whose = own, f"{models[-1]}, {by}: "
                break
    written = {name: decimals(value, 0) if shown.counts else figure(value) for name, value in last.items()}
    found = [(words.replace("_", " "), written[name]) for name, words in metrics.items() if name in last]
    return whose, found or [(name.split("/")[-1].replace("_", " "), told) for name, told in written.items()]
