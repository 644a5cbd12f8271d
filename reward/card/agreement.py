"""How far annotators agree, which no model can exceed, and how far two models do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import comb
from typing import Any

from llamatrain.data.kinds import RATINGS
from llamatrain.statistics import by_group, clustered_interval

from ..scoring import UNRATED, accuracy, grouped, share
from .rows import ScoredRow

CASES = 10  # that are shown


def annotators(rows: Sequence[ScoredRow]) -> dict[str, Any] | None:
    """Return how far annotators of the same two answers agree; None where no pair has several.

    Of an annotator who rated a pair twice the first vote counts; rows that do not name their annotator are no votes.
    `agreement` is how often two of them choose alike; `ceiling` the share of their votes that go with the majority: more
    of them no model gets right; `accuracy` is the model's share on the same votes. Means over pairs, with 95 % intervals.
    """
    votes: dict[tuple[str, ...], dict[str, ScoredRow]] = {}
    for row in rows:
        if row.annotator is not None:
            pair = (row.prompt, *sorted((row.chosen, row.rejected)))
            votes.setdefault(pair, {}).setdefault(row.annotator, row)
    several = [list(group.values()) for group in votes.values() if len(group) > 1]
    if not several:
        return None
    measured: dict[str, list[tuple[str, float]]] = {"agreement": [], "ceiling": [], "accuracy": []}
    for number, group in enumerate(several):
        counts = Counter(row.chosen for row in group).values()
        alike = sum(comb(count, 2) for count in counts) / comb(len(group), 2)
        right = sum(row.correct for row in group) / len(group)
        for name, value in zip(measured, (alike, max(counts) / len(group), right), strict=True):
            measured[name].append((str(number), value))
    shares = {name: share(values) for name, values in measured.items()}
    return {"pairs": len(several), "votes": sum(map(len, several)), **shares}


def by_model(rows: Sequence[ScoredRow], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return each model's accuracy on each kind of preferences, all and by rating (table 8), and by file (table 7)."""
    found = {}
    for name, own in zip(names, _models(rows), strict=False):
        kinds = {
            kind: {"all": accuracy(part), **grouped(part, (*RATINGS, UNRATED), lambda row: row.rating or UNRATED)}
            for kind in sorted({row.kind for row in own})
            if (part := [row for row in own if row.kind == kind])
        }
        files = dict.fromkeys(row.source for row in own)
        found[name] = {"by_kind": kinds, "by_file": grouped(own, files, lambda row: row.source)}
    return found


def compared(rows: Sequence[ScoredRow]) -> dict[str, Any] | None:
    """Return by how much the first model is more often right than the second, paired over pairs, and where they part.

    `cases` are the pairs that they order differently, those first on which the less sure of the two is surest. None
    without a second model.
    """
    if len(models := _models(rows)) < 2:
        return None
    first, second = models
    lead = clustered_interval(
        by_group((one.prompt, float(one.correct) - other.correct) for one, other in zip(first, second, strict=True))
    )
    apart = [
        (min(abs(_gap(one)), abs(_gap(other))), one, other)
        for one, other in zip(first, second, strict=True)
        if _gap(one) * _gap(other) < 0
    ]
    apart.sort(key=lambda case: -case[0])
    first_right = sum(one.correct for _, one, _ in apart) / len(apart) if apart else None
    return {
        "difference": {"difference": lead.mean, "low": lead.low, "high": lead.high},
        "ordered_differently": len(apart) / len(rows),
        "first_is_right": first_right,
        "cases": [_case(one, _gap(other)) for _, one, other in apart[:CASES]],
    }


def mistakes(rows: Sequence[ScoredRow]) -> list[dict[str, Any]]:
    """Return the pairs that the model orders wrong and is surest about."""
    wrong = sorted((row for row in rows if not row.correct), key=_gap)
    return [_case(row) for row in wrong[:CASES]]


def _models(rows: Sequence[ScoredRow]) -> list[Sequence[ScoredRow]]:
    """Return the rows as the first model scores them, and as the second one does, where there is one."""
    if any(row.other_chosen_score is None for row in rows):
        return [rows]
    return [rows, [row.by_other() for row in rows]]


def _gap(row: ScoredRow) -> float:
    return row.chosen_score - row.rejected_score


def _case(row: ScoredRow, other_gap: float | None = None) -> dict[str, Any]:
    """Return a pair as it is shown; a gap is by how much the chosen response has the higher score."""
    shown: Mapping[str, Any] = {
        "source": row.source,
        "row": row.row,
        "prompt": " / ".join(message["content"] for message in row.messages),
        "chosen": row.chosen,
        "rejected": row.rejected,
        "rating": row.rating,
        "gap": _gap(row),
    }
    return dict(shown) if other_gap is None else {**shown, "other_gap": other_gap}


def names_of(kinds: Iterable[str | None]) -> list[str]:
    """Return what two models are called: by their kinds where these tell them apart, else first and second."""
    found = list(kinds)
    plain = [kind for kind in found if kind is not None]
    return plain if len(set(plain)) == len(found) else ["checkpoint", "other"][: len(found)]
