"""Which of two systems people prefer: wins, ties and losses of seven-point ratings (paper 3.4.2, A.3.7).

Each prompt is rated by several people (three in the paper). By `outcome` their ratings become

    majority   one outcome per prompt: what more than half of its raters say, a tie where there is no such
    mean       one outcome per prompt: the sign of their mean, a tie where it is nearer to "about the same" than to "slightly"
    each       an outcome per rating, those of a prompt counted as the related ones that they are

The paper reports wins, ties and losses, and does not say how it made one of three. Intervals are Wilson's, over prompts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from llamatrain.statistics import by_group, share_interval, win_rate_at_equal_length

from .agreement import agreement
from .verdicts import POINTS, SideBySideRow

SHARES = {"win": 1, "tie": 0, "loss": -1}


def outcomes(points: Sequence[int], outcome: str) -> list[int]:
    """Return a prompt's outcomes for system A: 1 a win, 0 a tie, -1 a loss."""
    signs = [(point > 0) - (point < 0) for point in points]
    if outcome == "each":
        return signs
    if outcome == "mean":
        mean = math.fsum(points) / len(points)
        return [(mean >= 0.5) - (mean <= -0.5)]
    return [next((sign for sign in (1, -1) if 2 * signs.count(sign) > len(signs)), 0)]


def shares(prompts: Mapping[str, Sequence[int]], outcome: str) -> dict[str, Any]:
    """Return the shares of wins, ties and losses, with intervals, and the mean point, of prompt -> its ratings' points."""
    found = {prompt: outcomes(points, outcome) for prompt, points in prompts.items()}
    parts = {
        name: share_interval(
            {prompt: [one == sign for one in of_prompt] for prompt, of_prompt in found.items()}
        ).as_dict()
        for name, sign in SHARES.items()
    }
    means = [math.fsum(points) / len(points) for points in prompts.values()]
    return {"prompts": len(prompts), **parts, "mean_points": math.fsum(means) / len(means)}


def preferred(rows: Iterable[SideBySideRow], outcome: str, weights: str) -> list[dict[str, Any]]:
    """Return what people say of each pair of systems, in all and by category, by turns and by length.

    With it: how far raters agree, whether they prefer what is shown first, and the win rate at equal length.
    """
    pairs: dict[tuple[str, str], list[SideBySideRow]] = {}
    for row in rows:
        pairs.setdefault((row["system_a"], row["system_b"]), []).append(row)
    return [{"system_a": a, "system_b": b, **_of_pair(of_pair, outcome, weights)} for (a, b), of_pair in pairs.items()]


def _of_pair(rows: Sequence[SideBySideRow], outcome: str, weights: str) -> dict[str, Any]:
    judged = [row for row in rows if row["rating"] is not None]
    found = {
        "ratings": len(judged),
        "raters": len({row["rater"] for row in judged}),
        "cannot_judge": len(rows) - len(judged),
    }
    if not judged:
        return found
    points = _points(judged)
    scale = sorted(POINTS.values())
    coefficient = agreement(list(points.values()), scale, weights)
    return {
        **found,
        **shares(points, outcome),
        "by_category": _by(judged, lambda row: row.get("category", ""), outcome),
        "by_turns": _by(judged, lambda row: str(row["turns"]), outcome),
        "by_length": _by(judged, _length_of(judged), outcome),
        "win_rate_at_equal_length": _at_equal_length(judged, points),
        "first_preferred": _first_preferred(judged),
        "agreement": None if coefficient is None else {"weights": weights, **vars(coefficient)},
    }


def _points(rows: Iterable[SideBySideRow]) -> dict[str, list[int]]:
    return {
        prompt: [int(point) for point in points]
        for prompt, points in by_group((row["prompt_id"], POINTS[row["rating"] or ""]) for row in rows).items()
    }


def _by(rows: Sequence[SideBySideRow], part: Callable[[SideBySideRow], str], outcome: str) -> dict[str, Any]:
    """Return the shares of each part of the prompts, where there is more than one part."""
    parts: dict[str, list[SideBySideRow]] = {}
    for row in rows:
        parts.setdefault(part(row), []).append(row)
    if len(parts) < 2:
        return {}
    return {name: shares(_points(of_part), outcome) for name, of_part in sorted(parts.items(), key=_natural)}


def _natural(part: tuple[str, Any]) -> tuple[float, str]:
    """Return what sorts turns and lengths as numbers, names behind them."""
    number = re.search(r"\d+", part[0])
    return (int(number[0]) if number else math.inf, part[0])


def _words(row: SideBySideRow) -> int:
    return row["words"] + row["words_a"] + row["words_b"]


def _length_of(rows: Sequence[SideBySideRow]) -> Callable[[SideBySideRow], str]:
    """Return what names a prompt's third by length: of its words and those of both answers."""
    lengths = sorted({row["prompt_id"]: _words(row) for row in rows}.values())
    low, high = (int(np.quantile(lengths, share, method="lower")) for share in (1 / 3, 2 / 3))

    def name(row: SideBySideRow) -> str:
        words = _words(row)
        if words <= low:
            return f"up to {low}"
        return f"{low + 1} to {high}" if words <= high else f"more than {high}"

    return name


def _at_equal_length(rows: Sequence[SideBySideRow], points: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    mean = {prompt: [math.fsum(of_prompt) / len(of_prompt)] for prompt, of_prompt in points.items()}
    ours = {row["prompt_id"]: [float(row["words_a"])] for row in rows}
    theirs = {row["prompt_id"]: [float(row["words_b"])] for row in rows}
    rate = win_rate_at_equal_length(mean, {prompt: [0.0] for prompt in mean}, ours, theirs)
    return None if rate is None else rate.as_dict()


def _first_preferred(rows: Iterable[SideBySideRow]) -> dict[str, Any] | None:
    """Return how often the answer shown first was preferred, of ratings that prefer one: about half, in random order."""
    decided = by_group(
        (row["prompt_id"], float((row["first"] == "a") == (POINTS[row["rating"] or ""] > 0)))
        for row in rows
        if row["rating"] != "about_the_same"
    )
    return share_interval(decided).as_dict() if decided else None
