"""Reading what programs left in their run folders; whatever is missing or half-written reads as empty."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

Row = dict[str, Any]

# The figures that stand for a stage in one line: metric -> its name there, best first.
HEADLINES = {
    "eval/accuracy": "held-out accuracy",
    "eval/loss": "held-out loss",
    "eval/perplexity": "perplexity",
    "ppo/score_combined": "score",
    "ppo/kl": "KL",
    "sample/helpfulness_harmless": "helpfulness score",
    "sample/safety_score_unsafe": "safety score",
    "judge/helpful_prompts/helpfulness": "helpfulness",
    "judge/safety_prompts/safety": "safety",
    "accuracy": "accuracy",
    "train/loss": "loss",
    "train/tokens_per_second": "tokens/s",
}


def read_json(path: Path) -> Any:
    """Return a JSON file's content; an empty dictionary where there is none."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def read_status(folder: Path) -> Row:
    """Return a run's status.json."""
    status = read_json(folder / "status.json")
    return status if isinstance(status, dict) else {}


def read_lines(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSONL file; a last line that is still being written is left out."""
    try:
        with path.open() as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if isinstance(row, dict):
                    yield row
    except OSError:
        return


def read_series(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """Return every metric of a run as (step, value) points; a step logged again replaces the earlier value."""
    series: dict[str, dict[float, float]] = {}
    for row in read_lines(folder / "metrics.jsonl"):
        step = row.get("step")
        if not is_number(step):
            continue
        for name, value in row.items():
            if name not in ("step", "time") and is_number(value):
                series.setdefault(name, {})[float(step)] = float(value)
    return {name: sorted(points.items()) for name, points in series.items()}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def figure(value: float) -> str:
    """Write a number with three significant digits or so, large ones grouped."""
    if (value == int(value) and abs(value) < 1e15) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"


def headline(folder: Path) -> str:
    """Return a run's result in up to three figures."""
    last = {name: points[-1][1] for name, points in read_series(folder).items()}
    found = [f"{shown} {figure(last[name])}" for name, shown in HEADLINES.items() if name in last]
    if not found:
        found = [f"{name.split('/')[-1].replace('_', ' ')} {figure(value)}" for name, value in last.items()]
    return ", ".join(found[:3])
