"""Figures of a source's rows, counted as they are read: sizes as in the paper's table 6, what stands twice, what contradicts."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatrain.data.faults import LeftOutPairs, fault
from llamatrain.data.folds import conversation_key
from llamatrain.data.rows import row_number
from llamatrain.data.skipped import NAMED
from llamatrain.words import won, words

LANGUAGES_OF = 2_000  # rows whose language is detected: it takes a while

Measure = Callable[[str], int]  # the tokens, or words, of a text


@dataclass
class Mean:
    """A mean, counted on the way."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Count a value."""
        self.total, self.count = self.total + value, self.count + 1

    def __float__(self) -> float:
        return self.total / max(1, self.count)


@dataclass
class Figures:
    """What rows of one kind hold. Of a row some numbers are kept, 24 bytes, or 41 of a preference; `finish` compares them."""

    kind: str
    measure: Measure
    max_length: int | None = None
    rows: int = 0
    turns: Mean = field(default_factory=Mean)  # user messages
    example: Mean = field(default_factory=Mean)  # tokens of a row; of a preference with one answer
    prompt: Mean = field(default_factory=Mean)  # tokens of a user message
    response: Mean = field(default_factory=Mean)  # tokens of an answer
    longest: int = 0
    too_long: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)  # ratings, kinds, safety, languages -> word -> rows
    gap: Mean = field(default_factory=Mean)  # by how much a chosen answer is longer
    longer_wins: Mean = field(default_factory=Mean)  # in words, as on a reward model's card
    faults: LeftOutPairs = field(default_factory=LeftOutPairs)
    prompts: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))  # hashes of the different ones
    strange: dict[str, list[str]] = field(default_factory=dict)  # what is wrong -> where it stands, the first NAMED
    strange_counts: Counter[str] = field(default_factory=Counter)
    _place: str = ""  # where rows stand, without their number
    _numbers: array[int] = field(default_factory=lambda: array("q"))
    _asked: array[int] = field(default_factory=lambda: array("Q"))  # hashes of prompts, then of whole rows
    _whole: array[int] = field(default_factory=lambda: array("Q"))
    _pairs: array[int] = field(default_factory=lambda: array("Q"))  # of pairs with their answers in alphabetical order
    _verdicts: bytearray = field(default_factory=bytearray)  # of each pair: was the first of these chosen
    _of_pairs: array[int] = field(default_factory=lambda: array("q"))  # the pairs' rows

    def add(self, row: Mapping[str, Any], where: str) -> None:
        """Count a row that stands at `where` (file:line)."""
        self.rows += 1
        messages = row.get("messages", ())
        number = row_number(where)
        self._place = where.removesuffix(str(number))
        self._numbers.append(number)
        self._asked.append(prompt_hash(row))
        self._whole.append(
            _hash(*(f"{one['role']}:{one['content']}" for one in messages), row.get("text"), *_answers(row))
        )
        self._sizes(row)
        if self.kind == "preference":
            self._pair(row, where)
        if self.rows <= LANGUAGES_OF and (language := detected(conversation_key(dict(row)))):
            self._count("languages", language)

    def finish(self) -> None:
        """Find what stands twice and what contradicts, once all rows are counted."""
        self.prompts = np.unique(np.asarray(self._asked, np.uint64))
        again, _ = _repeated(np.asarray(self._whole, np.uint64))
        self._note_rows("duplicates: the same row as an earlier one", again)
        again, earlier = _repeated(np.asarray(self._pairs, np.uint64))
        verdicts = np.frombuffer(bytes(self._verdicts), np.bool_)
        contrary = again[verdicts[again] != verdicts[earlier]]
        self._note_rows(
            "contradictions: the same two answers as in an earlier pair, the opposite verdict",
            np.asarray(self._of_pairs, np.int64)[contrary],
        )
        self.strange = dict(sorted(self.strange.items(), key=lambda found: row_number(found[1][0])))

    def _note_rows(self, what: str, rows: NDArray[np.int64]) -> None:
        if len(rows):
            self.strange_counts[what] = len(rows)
            self.strange[what] = [f"{self._place}{self._numbers[row]}" for row in rows[:NAMED].tolist()]

    def note(self, what: str, where: str) -> None:
        """Note something strange."""
        self.strange_counts[what] += 1
        places = self.strange.setdefault(what, [])
        if len(places) < NAMED:
            places.append(where)

    def overlap(self, other: Figures) -> int:
        """Return how many different prompts (documents) stand in both."""
        return len(np.intersect1d(self.prompts, other.prompts, assume_unique=True))

    def _sizes(self, row: Mapping[str, Any]) -> None:
        asked = [self.measure(one["content"]) for one in row.get("messages", ()) if one["role"] != "assistant"]
        told = [self.measure(one["content"]) for one in row.get("messages", ()) if one["role"] == "assistant"]
        answers = [self.measure(answer) for answer in _answers(row)]
        for size in asked:
            self.prompt.add(size)
        for size in answers or told:
            self.response.add(size)
        before = sum(asked) + sum(told) + (self.measure(row["text"]) if self.kind == "document" else 0)
        for size in answers or [0]:
            self.example.add(before + size)
        length = before + max(answers, default=0)
        self.longest = max(self.longest, length)
        self.too_long += self.max_length is not None and length > self.max_length
        self.turns.add(sum(one["role"] == "user" for one in row.get("messages", ())))

    def _pair(self, row: Mapping[str, Any], where: str) -> None:
        self._count("kinds", row["kind"])
        self._count("ratings", row.get("rating", "unrated"))
        self._count("safety", _bin(row.get("chosen_safe"), row.get("rejected_safe")))
        why = fault(row)
        if why is not None:
            self.faults.note(why, where)
            return
        self.gap.add(self.measure(row["chosen"]) - self.measure(row["rejected"]))
        self.longer_wins.add(won(words(row["chosen"]), words(row["rejected"])))
        first, second = sorted([row["chosen"].strip(), row["rejected"].strip()])
        self._pairs.append(_hash(str(prompt_hash(row)), first, second, row["kind"]))
        self._verdicts.append(row["chosen"].strip() == first)
        self._of_pairs.append(self.rows - 1)

    def _count(self, what: str, word: str) -> None:
        self.counts.setdefault(what, Counter())[word] += 1


def _repeated(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the places of what stood earlier already, in order, and where each stood first."""
    order = np.argsort(hashes, kind="stable")
    if not len(order):
        return order, order
    begins = np.concatenate([[True], np.diff(hashes[order]) != 0])
    first = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
    again = order[~begins]
    rank = np.argsort(again)
    return again[rank], first[~begins][rank]


def prompt_hash(row: Mapping[str, Any]) -> int:
    """Return what tells prompts apart: all that stands before the last answer; of a document its text."""
    messages = row.get("messages", ())
    if messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return _hash(*(f"{one['role']}:{one['content'].strip()}" for one in messages), row.get("text"))


def _answers(row: Mapping[str, Any]) -> list[str]:
    """Return what stands beside a row's messages as answers to them."""
    return [row[name] for name in ("chosen", "rejected", "response", "response_a", "response_b") if name in row]


def _bin(chosen: bool | None, rejected: bool | None) -> str:
    """Return which of the paper's bins (3.2.1) the labels of a pair are."""
    if chosen is None or rejected is None:
        return "unlabelled"
    if chosen and rejected:
        return "both safe"
    if chosen or rejected:
        return "chosen safe, rejected unsafe" if chosen else "chosen unsafe, rejected safe"
    return "both unsafe"


def _hash(*texts: str | None) -> int:
    content = "\x00".join(text or "" for text in texts)
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big")


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        return None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def detected(text: str) -> str:
    """Return the language of a text (ISO 639-1), `unknown` where that is unsure; "" where py3langid is not installed."""
    if _identifier() is None:
        return ""
    language, probability = _identifier().classify(text[:2000])
    return str(language) if probability >= 0.5 else "unknown"
