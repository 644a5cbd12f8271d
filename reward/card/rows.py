"""Scored preferences as rows: what annotators said of a pair, and what one or two reward models make of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llamatrain.chat import Message
from llamatrain.data.kinds import PreferenceRow
from llamatrain.data.rows import placed_rows, row_number
from llamatrain.data.skipped import BadRows
from llamatrain.responses.pairs import Pair

from ..scoring import Scored


@dataclass(frozen=True, kw_only=True)
class ScoredRow(Scored):
    """A line of scores.jsonl: a preference with its scores, and those of a second model where there is one."""

    kind: str
    messages: list[Message]
    chosen: str
    rejected: str
    annotator: str | None = None
    group: str | None = None  # of a test set: the id of the question that several pairs share
    subset: str | None = None
    answers: int | None = None  # how many that question has
    other_chosen_score: float | None = None
    other_rejected_score: float | None = None

    @property
    def prompt(self) -> str:
        """Return what pairs of the same prompt have in common."""
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.messages)

    def by_other(self) -> ScoredRow:
        """Return the row as the second model scores it."""
        assert self.other_chosen_score is not None
        assert self.other_rejected_score is not None
        return replace(self, chosen_score=self.other_chosen_score, rejected_score=self.other_rejected_score)

    def responses(self) -> list[tuple[str, float, bool | None]]:
        """Return both responses: text, score, and whether it is safe."""
        return [
            (self.chosen, self.chosen_score, self.chosen_safe),
            (self.rejected, self.rejected_score, self.rejected_safe),
        ]


Scores = Sequence[tuple[float, float]]


def join(source: str, pairs: Sequence[Pair], scores: Scores, other: Scores | None, bad: BadRows) -> list[ScoredRow]:
    """Join the pairs of a source with their rows, which are read again, and with the scores of one or two models."""
    wanted = {(pair.row, pair.nth): index for index, pair in enumerate(pairs)}
    made: dict[int, ScoredRow] = {}
    for place, row in _numbered(placed_rows(source, PreferenceRow, bad)):
        index = wanted.get(place)
        if index is not None:
            made[index] = _row(pairs[index], row, scores[index], other[index] if other is not None else None)
    return [made[index] for index in range(len(pairs))]


def _numbered(rows: Iterable[tuple[str, PreferenceRow]]) -> Iterable[tuple[tuple[int, int], PreferenceRow]]:
    """Yield each preference with the number of its raw row and its place among those which that row makes, as in `Pair`."""
    before, nth = "", 0
    for where, row in rows:
        before, nth = where, nth + 1 if where == before else 0
        yield (row_number(where) - 1, nth), row


def _row(pair: Pair, row: PreferenceRow, scores: tuple[float, float], other: tuple[float, float] | None) -> ScoredRow:
    meta: dict[str, Any] = row.get("meta") or {}
    return ScoredRow(
        source=pair.source,
        row=pair.row,
        nth=pair.nth,
        chosen_score=scores[0],
        rejected_score=scores[1],
        is_adversarial=pair.is_adversarial,
        rating=pair.rating,
        chosen_safe=pair.chosen_safe,
        rejected_safe=pair.rejected_safe,
        kind=row["kind"],
        messages=row["messages"],
        chosen=row["chosen"],
        rejected=row["rejected"],
        annotator=row.get("annotator"),
        group=meta.get("id"),
        subset=meta.get("subset"),
        answers=meta.get("answers"),
        other_chosen_score=None if other is None else other[0],
        other_rejected_score=None if other is None else other[1],
    )
