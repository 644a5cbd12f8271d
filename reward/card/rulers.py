"""Rules that need no model, beside it: a reward model that is no better than "the longer one wins" has learned length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamatrain.refusals import refuses
from llamatrain.statistics import Interval, by_group, clustered_interval, spearman_interval
from llamatrain.words import won, words

from ..scoring import accuracy, kind_of_prompt, share
from .rows import ScoredRow

Rule = Callable[[str], float]
RULERS: Mapping[str, Rule] = {
    "longer": words,
    "shorter": lambda text: -words(text),
    "refusal": refuses,
}
MATCHED = 0.1  # of the longer answer's words: how far apart two answers of like length are at most


def rulers(rows: Sequence[ScoredRow]) -> dict[str, dict[str, Any]]:
    """Return how often each rule is right (a tie is half right), and the model's lead over it, paired over pairs."""
    found: dict[str, dict[str, Any]] = {}
    for name, rule in RULERS.items():
        right = [(row.prompt, won(rule(row.chosen), rule(row.rejected))) for row in rows]
        leads = ((row.prompt, row.correct - ruled) for row, (_, ruled) in zip(rows, right, strict=True))
        lead = clustered_interval(by_group(leads))
        found[name] = {**share(right), "lead": _spread(lead)}
    # Nothing to measure: it is right half of the time.
    return {**found, "random": {"accuracy": 0.5, "low": None, "high": None, "pairs": len(rows)}}


def _spread(interval: Interval) -> dict[str, float | None]:
    return {"difference": interval.mean, "low": interval.low, "high": interval.high}


def by_length(rows: Sequence[ScoredRow]) -> dict[str, dict[str, float | int]]:
    """Return the accuracy on pairs of like length, where length tells nothing, and on those that it favours and not."""
    groups: dict[str, list[ScoredRow]] = {"matched": [], "chosen_longer": [], "chosen_shorter": []}
    for row in rows:
        chosen, rejected = words(row.chosen), words(row.rejected)
        if abs(chosen - rejected) <= MATCHED * max(chosen, rejected):
            groups["matched"].append(row)
        else:
            groups["chosen_longer" if chosen > rejected else "chosen_shorter"].append(row)
    return {name: accuracy(group) for name, group in groups.items() if group}


def correlations(rows: Sequence[ScoredRow]) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Return Spearman's correlation of the scores with length and with refusing, by kind of prompt; none where it is undefined."""
    found: dict[str, dict[str, dict[str, float | int | None]]] = {}
    for kind in ("harmless", "adversarial"):
        responses = [
            (row.prompt, text, score)
            for row in rows
            if kind_of_prompt(row) == kind
            for text, score, _ in row.responses()
        ]
        scores = by_group((prompt, score) for prompt, _, score in responses)
        for name, rule in (("length", words), ("refusal", refuses)):
            rho = spearman_interval(scores, by_group((prompt, float(rule(text))) for prompt, text, _ in responses))
            if rho is not None:
                found.setdefault(kind, {})[name] = rho.as_dict()
    return found
