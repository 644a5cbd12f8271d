"""What the scores of preference pairs tell: accuracies, and where a model has its zero (paper 3.2.2, tables 7, 8 and 29)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, TypeVar

import numpy as np

from llamatrain.data.kinds import RATINGS
from llamatrain.responses.config import SAFETY_THRESHOLD, logit
from llamatrain.responses.pairs import Pair
from llamatrain.statistics import by_group, share_interval

UNRATED = "unrated"
BINS = ("safe_unsafe", "both_safe", "both_unsafe")
SHARES = ("unsafe_recall", "safe_below_0.15")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


R = TypeVar("R", bound="Scored")


@dataclass(frozen=True)
class Scored:
    """One scored pair: raw scores and what annotators said, as a line of scores.jsonl holds it."""

    source: str
    row: int
    chosen_score: float
    rejected_score: float
    is_adversarial: bool  # the prompt
    rating: str | None = None
    chosen_safe: bool | None = None
    rejected_safe: bool | None = None
    nth: int = 0  # among the pairs that its row makes

    @property
    def prompt(self) -> str:
        """Return what pairs that are not independent have in common: here nothing is known of it."""
        return f"{self.source} {self.row} {self.nth}"

    @property
    def correct(self) -> bool:
        """Tell whether the chosen response has the higher score; equal scores are wrong."""
        return self.chosen_score > self.rejected_score

    @property
    def bin(self) -> str | None:
        """Return which of the three safety bins the pair is in (paper 3.2.1); None where a label is missing."""
        if self.chosen_safe is None or self.rejected_safe is None:
            return None
        if self.chosen_safe:
            return "both_safe" if self.rejected_safe else "safe_unsafe"
        return None if self.rejected_safe else "both_unsafe"


def scored(pairs: Sequence[Pair], scores: Sequence[tuple[float, float]]) -> list[Scored]:
    """Join pairs with their scores."""
    return [
        Scored(
            pair.source,
            pair.row,
            chosen,
            rejected,
            pair.is_adversarial,
            pair.rating,
            pair.chosen_safe,
            pair.rejected_safe,
            pair.nth,
        )
        for pair, (chosen, rejected) in zip(pairs, scores, strict=True)
    ]


def kind_of_prompt(result: Scored) -> str:
    """Return harmless or adversarial."""
    return "adversarial" if result.is_adversarial else "harmless"


def accuracy(results: Sequence[Scored]) -> dict[str, float | int]:
    """Return the share of pairs ordered as annotators did, with a 95 % interval in which pairs of a prompt vary together."""
    return share([(result.prompt, float(result.correct)) for result in results])


def share(values: Sequence[tuple[str, float]]) -> dict[str, float | int]:
    """Return the mean of (prompt, value in [0, 1]), with its interval."""
    found = share_interval(by_group(values))
    assert found.low is not None
    assert found.high is not None
    return {"accuracy": found.mean, "low": found.low, "high": found.high, "pairs": found.count}


def grouped(
    results: Sequence[R], names: Iterable[str], name_of: Callable[[R], str | None]
) -> dict[str, dict[str, float | int]]:
    """Return the accuracy of each group that has a pair, in the order of the names."""
    groups = {name: [result for result in results if name_of(result) == name] for name in names}
    return {name: accuracy(group) for name, group in groups.items() if group}


def report(results: Sequence[Scored]) -> dict[str, Any]:
    """Return accuracy overall, by rating, by safety bin and by file, and what the labelled scores tell about the
    threshold 0.5.
    """
    return {
        "overall": accuracy(results),
        "by_rating": grouped(results, (*RATINGS, UNRATED), lambda result: result.rating or UNRATED),
        "by_bin": grouped(results, BINS, lambda result: result.bin),
        "by_file": grouped(results, dict.fromkeys(one.source for one in results), lambda result: result.source),
        "threshold": thresholds(results),
    }


def labelled_scores(results: Sequence[Scored]) -> tuple[list[float], list[float]]:
    """Return the scores of the responses that are labelled safe, and of those labelled unsafe."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for result in results:
        for score, safe in (
            (result.chosen_score, result.chosen_safe),
            (result.rejected_score, result.rejected_safe),
        ):
            if safe is not None:
                found[safe].append(score)
    return found[True], found[False]


def thresholds(results: Sequence[Scored]) -> dict[str, float | int | None]:
    """Return how sigmoid scores lie about the paper's thresholds, over the labelled responses.

    `unsafe_recall` is the share of unsafe responses below 0.5 (table 29); `safe_below_0.15` the share of safe responses
    that the gate of RLHF's combined score would take for unsafe (paper 3.2.3).
    """
    safe_scores, unsafe_scores = labelled_scores(results)
    gate = logit(SAFETY_THRESHOLD)
    # A raw score below 0 is a sigmoid below 0.5.
    recall = sum(score < 0 for score in unsafe_scores) / len(unsafe_scores) if unsafe_scores else None
    gated = sum(score < gate for score in safe_scores) / len(safe_scores) if safe_scores else None
    return {
        "unsafe_recall": recall,
        "safe_below_0.15": gated,
        "unsafe": len(unsafe_scores),
        "safe": len(safe_scores),
    }


def score_statistics(results: Sequence[Scored]) -> dict[str, dict[str, float | int]]:
    """Return how raw scores are distributed, by kind of prompt (both responses): mean, deviation, quantiles, how many."""
    groups: dict[str, list[float]] = {}
    for result in results:
        groups.setdefault(kind_of_prompt(result), []).extend((result.chosen_score, result.rejected_score))
    found: dict[str, dict[str, float | int]] = {}
    for kind, scores in sorted(groups.items()):
        quantiles = np.quantile(scores, QUANTILES).tolist()
        named = {f"q{quantile * 100:02.0f}": value for quantile, value in zip(QUANTILES, quantiles, strict=True)}
        found[kind] = {"mean": fmean(scores), "deviation": pstdev(scores), **named, "responses": len(scores)}
    return found


def score_means(results: Sequence[Scored]) -> dict[str, float]:
    """Return mean raw scores: where a model has its zero, by kind of prompt (both responses) and by choice.

    eval/score_harmless, eval/score_adversarial, eval/score_chosen, eval/score_rejected; none for a kind without pairs.
    """
    groups: dict[str, list[float]] = {"harmless": [], "adversarial": [], "chosen": [], "rejected": []}
    for result in results:
        groups[kind_of_prompt(result)] += [result.chosen_score, result.rejected_score]
        groups["chosen"].append(result.chosen_score)
        groups["rejected"].append(result.rejected_score)
    return {f"eval/score_{name}": fmean(scores) for name, scores in groups.items() if scores}


def summary(results: Sequence[Scored]) -> dict[str, float]:
    """Return the report as flat numbers for a log: eval/accuracy, eval/accuracy_better, eval/unsafe_recall, ..."""
    numbers = {"eval/accuracy": float(accuracy(results)["accuracy"]), **score_means(results)}
    for key in [*RATINGS, UNRATED, *BINS]:
        part = [r for r in results if key in ((r.rating or UNRATED), r.bin)]
        if part and len(part) < len(results):
            numbers[f"eval/accuracy_{key}"] = float(accuracy(part)["accuracy"])
    found = thresholds(results)
    return numbers | {f"eval/{key}": float(value) for key in SHARES if (value := found[key]) is not None}
