"""Reading what programs left in their run folders; whatever is missing or half-written reads as empty."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

Row = dict[str, Any]

LOSSES = {"eval/loss": "held-out loss", "eval/perplexity": "perplexity", "train/loss": "loss"}
# The figures that stand for a program's run in one line: metric -> its name there, best first.
HEADLINES = {
    "pretrain": LOSSES,
    "sft": LOSSES,
    "reward": {"eval/accuracy": "held-out accuracy", **LOSSES},
    "reward.evaluate": {"accuracy": "accuracy"},
    "rejection_sampling": LOSSES,
    "ppo": {"ppo/score_combined": "score (logit)", "ppo/kl": "KL", "ppo/response_length": "tokens a response"},
    "sample": {"sample/helpfulness_harmless": "helpful", "sample/safety_score_unsafe": "safe"},
    "judge": {"judge/helpful_prompts/helpfulness": "helpful", "judge/safety_prompts/safety": "safe"},
    "toyworld": {"toyworld/documents": "documents", "toyworld/dialogues": "dialogues"},
    "tokenizer": {"tokenizer/vocab_size": "pieces"},
    "corpus": {"corpus/train_tokens": "tokens", "corpus/train_documents": "documents"},
    "compare": {"compare/pairs": "pairs", "compare/equal": "left out as equal"},
    "rate": {"rate/preferences_helpfulness": "helpfulness", "rate/preferences_safety": "safety"},
}
WHOSE = {"sample": "reward models: ", "judge": "gold judge: ", "rate": "preferences: "}  # who says so, or of what
EVALUATED = {  # what is told of the last model: the first of these that was measured
    "gold judge": {"helpfulness": "helpful", "safety": "safe"},
    "reward models": {"score_helpfulness": "helpful", "score_safety": "safe"},
    "held-out text": {"perplexity": "perplexity", "bits_per_byte": "bits per byte"},
}
BEST_OF = "rs/best_of_"


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
    """Write a number for people: counts whole and grouped, anything else with three decimals."""
    if value == 0 or abs(value) >= 1000 or (value == int(value) and abs(value) >= 2):
        return f"{value:,.0f}"
    return f"{value:.3f}"


def headline(folder: Path, program: str) -> str:
    """Return a run's result in two figures, for rejection sampling what keeping the best brought."""
    last = {name: points[-1][1] for name, points in read_series(folder).items()}
    shown, whose = HEADLINES.get(program, {}), WHOSE.get(program, "")
    best = sorted(int(name.removeprefix(BEST_OF)) for name in last if name.startswith(BEST_OF))
    if best:
        first, most = last[f"{BEST_OF}{best[0]}"], last[f"{BEST_OF}{best[-1]}"]
        return f"score of the best of {best[0]}: {first:.2f}, of {best[-1]}: {most:.2f}"
    if program == "evaluate":
        models = [name.partition("/")[0] for name in last if "/" in name]
        by = next((by for by, names in EVALUATED.items() if models and f"{models[-1]}/{next(iter(names))}" in last), "")
        shown = {f"{models[-1]}/{metric}": words for metric, words in EVALUATED.get(by, {}).items()}
        whose = f"{models[-1]}, {by}: " if by else ""
    found = [f"{words.replace('_', ' ')} {figure(last[name])}" for name, words in shown.items() if name in last]
    if not found:
        found = [f"{name.split('/')[-1].replace('_', ' ')} {figure(value)}" for name, value in last.items()]
    return whose + ", ".join(found[:2])
