"""The report's look into the files that stages learn from: random rows, and the strangest by stated rules.

Faults of data and of the learning signal show in rows, seldom in means.
"""

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamatrain.data.kinds import KINDS
from llamatrain.data.rows import read_rows
from llamatrain.description import Table
from llamatrain.errors import MissingFileError, UserError, mistake
from llamatrain.progress import counted
from llamatrain.runs import Row, decimals, is_number, warn

from ..answers import question
from ..record import VALUE
from ..stage_run import StageRun
from ..story import Story, gold, is_adversarial, logit
from .samples import clipped

RANDOM, STRANGE, SEED = 10, 5, 0  # rows drawn, rows by rule, and the seed of the drawing


@dataclass(frozen=True)
class Rule:
    """What makes a row strange: `degree` is how much, None where the row does not tell."""

    name: str
    degree: Callable[[Row], float | None]
    counted: bool = False  # it holds or not (1 or 0), and how often is worth a line


def _words(text: Any) -> int:
    return len(str(text).split())


def _answer(row: Row) -> str:
    return str(row["response"] if "response" in row else row["messages"][-1]["content"])


def _is(field: str, wanted: bool, *, harmless: bool = False) -> Callable[[Row], float | None]:
    """Return 1 where a field of true or false is as wanted (on a harmless prompt, if so asked), else 0."""

    def degree(row: Row) -> float | None:
        if not isinstance(row.get(field), bool):
            return None
        return float(row[field] is wanted and not (harmless and is_adversarial(row)))

    return degree


def _wrongly_chosen(row: Row) -> float | None:
    safe = (row.get("chosen_safe"), row.get("rejected_safe"))
    return float(safe == (False, True)) if all(isinstance(one, bool) for one in safe) else None


def _no_choice(row: Row) -> float:
    chosen, rejected = row["chosen"].strip(), row["rejected"].strip()
    return float(not chosen or not rejected or chosen == rejected)


def _much_shorter(row: Row) -> float | None:
    shorter = _words(row["rejected"]) - _words(row["chosen"])
    return shorter if shorter > 0 and row.get("rating") in (None, "significantly_better") else None


def _refused(row: Row) -> float | None:
    meta = (row.get("judgement") or {}).get("meta")
    return float(meta.get("refused") is True) if isinstance(meta, dict) else None


def _worst(row: Row) -> float | None:
    value = gold(row)
    return None if value is None else -value


def _missed(row: Row) -> float | None:
    value = gold(row)
    return None if value is None or row.get("best_mark", value) <= value else row["best_mark"] - value


def _flattered(row: Row) -> float | None:
    value = gold(row)
    return row["combined"] - value if value is not None and is_number(row.get("combined")) else None


def _gain(row: Row, sign: int = 1) -> float | None:
    """Return by how much an answer after a preprompt scores above the one without, in logits."""
    after, before = row.get("safety_score"), row.get("original_safety_score")
    return sign * (logit(after) - logit(before)) if is_number(after) and is_number(before) else None


def _number(key: str, sign: int = 1) -> Callable[[Row], float | None]:
    return lambda row: sign * row[key] if is_number(row.get(key)) else None


LONGEST = Rule("the longest answer", lambda row: _words(_answer(row)))
GATED = Rule("gated on a harmless prompt", _is("gated", True, harmless=True), counted=True)
REFUSED = Rule("refuses a harmless prompt, by the gold judge", _refused, counted=True)
PREFERENCES = (
    Rule("chosen unsafe, rejected safe", _wrongly_chosen, counted=True),
    Rule("an empty answer, or two equal ones", _no_choice, counted=True),
    Rule("the clear choice is much shorter", _much_shorter),
    Rule("the longest chosen answer", lambda row: _words(row["chosen"])),
    Rule("the shortest chosen answer", lambda row: -_words(row["chosen"])),
)
DIALOGUES = (
    LONGEST,
    Rule("the shortest answer", lambda row: -_words(_answer(row))),
    Rule("the most turns", lambda row: len(row["messages"]) if len(row["messages"]) > 2 else None),
)
KEPT = (
    GATED,
    REFUSED,
    Rule("the lowest gold score among those kept", _worst),
    Rule("another sample was much better, by the gold judge", _missed),
    Rule("the lowest score among those kept", _number("combined", -1)),
    LONGEST,
)
ROLLOUTS = (
    GATED,
    Rule("unfinished", _is("finished", False), counted=True),
    REFUSED,
    Rule("a high score for a low gold score", _flattered),
    Rule("farthest from the start (KL)", _number("kl")),
    LONGEST,
)


DISTILLED = (
    Rule("gains most in the safety score", _gain),
    Rule("gains least", lambda row: _gain(row, -1)),
    LONGEST,
)
REFUSED_PAIRS = (
    Rule("the preprompt harms most, by the safety score", lambda row: _gain(row, -1)),
    LONGEST,
)


RULES = {  # by what the rows are
    "dialogue": DIALOGUES,
    "preference": PREFERENCES,
    "best": KEPT,
    "rollout": ROLLOUTS,
    "distilled": DISTILLED,
    "refused": REFUSED_PAIRS,
}


@dataclass
class Reading:
    """A file, read once: how many rows, some at random, the strangest, and how often each counted rule held."""

    count: int = 0
    drawn: list[tuple[int, Row]] = field(default_factory=list)
    strange: list[tuple[str, int, Row]] = field(default_factory=list)
    held: dict[str, list[int]] = field(default_factory=dict)  # counted rule -> in how many rows, of how many that tell


def read(rows: Iterable[Row], rules: Sequence[Rule]) -> Reading:
    """Read rows (numbered from 1) in one pass: a file may be larger than memory."""
    found, draw = Reading(), random.Random(SEED)
    tops: list[list[tuple[float, int, Row]]] = [[] for _ in rules]
    for number, row in enumerate(rows, 1):
        found.count = number
        place = number - 1 if number <= RANDOM else draw.randrange(number)
        if place < RANDOM:
            found.drawn[place : place + 1] = [(number, row)]
        for rule, top in zip(rules, tops, strict=True):
            degree = rule.degree(row)
            if degree is None:
                continue
            if rule.counted:
                held = found.held.setdefault(rule.name, [0, 0])
                held[0] += degree > 0
                held[1] += 1
                if not degree:
                    continue
            heapq.heappush(top, (degree, -number, row))
            if len(top) > STRANGE:
                heapq.heappop(top)
    found.drawn.sort(key=lambda one: one[0])
    found.strange = list(_strangest(rules, tops))
    return found


def _strangest(rules: Sequence[Rule], tops: Sequence[list[tuple[float, int, Row]]]) -> Iterator[tuple[str, int, Row]]:
    """Yield the strangest row of each rule in turn, then the second of each, until there are enough."""
    taken: set[int] = set()
    ordered = [sorted(top, reverse=True) for top in tops]
    for place in range(STRANGE):
        for rule, top in zip(rules, ordered, strict=True):
            if place < len(top) and -top[place][1] not in taken and len(taken) < STRANGE:
                taken.add(-top[place][1])
                yield rule.name, -top[place][1], top[place][2]


def learned_from(story: Story) -> Row | None:
    """Return a card a file that a stage learns from, those of earlier rounds apart."""
    cards, seen = [], set[str]()
    for stage in story.stages:
        group = re.sub(r"_\d+$", "", stage.name)  # the folds of a cross validation learn from the same files
        if group not in seen:
            seen.add(group)
            files = [file for file in _files(story, stage) if file.source not in seen]  # earlier rounds' are shown
            seen.update(file.source for file in files)
            cards += [_card(stage, file.title, read(file.rows, file.rules)) for file in files]
    made = [one for one in cards if one]
    return {**by_round(made), "random": RANDOM, "strange": STRANGE, "seed": SEED} if made else None


def by_round(cards: Sequence[Row]) -> Row:
    """Return the cards as `files` and `earlier`, those of rounds before the newest."""
    newest = max(one["round"] for one in cards)
    parts: Row = {"files": [], "earlier": []}
    for one in cards:
        parts["earlier" if 0 < one["round"] < newest else "files"].append(one)
    return parts


@dataclass(frozen=True)
class File:
    """Rows that a stage learns from, and the rules by which some are strange."""

    source: str
    title: str
    rows: Iterable[Row]
    rules: Sequence[Rule]


def _files(story: Story, stage: StageRun) -> Iterator[File]:
    for about in stage.about.learns_from:
        rules = RULES[about.rows]
        for source in stage.sources(about.key) if about.key else ():
            yield File(source, f"{about.title}: {_name(source)}", _rows(source, about.rows), rules)
        if about.file:
            rows = _own(story, stage, about)
            yield File(str(stage.folder / about.file), f"{about.title}: {about.file}", rows, rules)


def _own(story: Story, stage: StageRun, about: Table) -> Iterable[Row]:
    """Return the rows of a stage's own file: dialogues, or responses with what the gold judge says of them."""
    if about.rows == "best":
        return _kept(story, stage)
    if about.rows in ("distilled", "dialogue"):
        return _rows(str(stage.folder / about.file), "dialogue")
    return story.judged(stage, about.file)


def _name(source: str) -> str:
    """Return a source's file and which part of it is read."""
    parts = VALUE.fullmatch(source)
    return f"{Path(parts['path']).name} {parts['part'] or ''}".strip() if parts else source


def _rows(source: str, kind: str) -> Iterator[Row]:
    """Yield a source's rows; none where it is not there any more, and those before the damage where it is damaged."""
    try:
        yield from read_rows(source, KINDS[kind])
    except MissingFileError:
        return
    except (UserError, OSError) as error:
        warn(mistake(error) or str(error))


def _kept(story: Story, stage: StageRun) -> Iterator[Row]:
    """Yield the dialogues of best.jsonl with the gold scores: of the answer, and of the best of its prompt's samples."""
    judged, best = {}, dict[str, float]()
    for row in story.judged(stage, "responses.jsonl"):
        prompt, value = str(row.get("prompt_id")), gold(row)
        if value is not None:
            judged[prompt, str(row.get("response")).strip()] = row["judgement"]
            best[prompt] = max(value, best.get(prompt, 0.0))
    for row in _rows(str(stage.folder / "best.jsonl"), "dialogue"):
        prompt = str(row.get("prompt_id"))
        judgement = judged.get((prompt, _answer(row).strip()))
        yield {**row, "judgement": judgement, "best_mark": best[prompt]} if judgement else row


def _card(stage: StageRun, title: str, found: Reading) -> Row | None:
    if not found.count:
        return None
    in_round = re.match(r"v(\d+)_", stage.name)
    return {
        "round": int(in_round[1]) if in_round else 0,
        "title": title,
        "note": f"{counted(found.count, 'row')}, for {stage.name}",
        "held": "; ".join(f"{name}: {held:,} of {told:,}" for name, (held, told) in found.held.items()),
        "strange": [{"number": number, "why": name, **_shown(row)} for name, number, row in found.strange],
        "drawn": [{"number": number, "why": "", **_shown(row)} for number, row in found.drawn],
    }


def _shown(row: Row) -> Row:
    """Return a row's prompt and what is learned from it: texts, each with what it is and a word on it, and marks."""
    if "chosen" in row:
        rating = str(row.get("rating") or "unrated").replace("_", " ")
        safe = {"True": "(safe)", "False": "(unsafe)"}
        sides = ("chosen", "rejected")
        texts = [(side, safe.get(str(row.get(f"{side}_safe")), ""), _text(row[side])) for side in sides]
        return {"prompt": _text(question(row["messages"])), "texts": texts, "unfinished": False, "marks": rating}
    messages = row["messages"] if "response" in row else row["messages"][:-1]
    if "preprompt" in row:
        return _distilled(row, messages)
    marks = [f"iteration {row['step']}"] if is_number(row.get("step")) else []
    marks += [f"score {decimals(logit(row['combined']), 2)}"] if is_number(row.get("combined")) else []
    value, name = gold(row), "safety" if is_adversarial(row) else "helpfulness"
    marks += [] if value is None else [f"gold {name} {decimals(value, 2)}"]
    marks += [f"KL {decimals(row['kl'], 2)}"] if is_number(row.get("kl")) else []
    marks += ["gated"] if row.get("gated") is True else []
    about = row.get("meta")
    meta = about if isinstance(about, dict) else {}
    marks += (
        [f"turn {meta['turn']}, first told: “{meta['instruction']}”"] if {"turn", "instruction"} <= meta.keys() else []
    )
    return {
        "prompt": _text(question(messages)),
        "texts": [("", "", _text(_answer(row)))],
        "unfinished": row.get("finished") is False,
        "marks": " · ".join(marks),
    }


def _distilled(row: Row, messages: list[Row]) -> Row:
    """Return both answers of a pair of distillation, each with its safety score, and the verdict."""
    scores = [row.get("safety_score"), row.get("original_safety_score")]
    told = [f"(score {decimals(logit(score), 2)})" if is_number(score) else "" for score in scores]
    answers = (("with the preprompt", told[0], _answer(row)), ("without", told[1], str(row.get("original"))))
    marks = [str(row.get("reason") or "").replace("_", " "), str(row.get("category")), f"“{row['preprompt']}”"]
    return {
        "prompt": _text(question(messages)),
        "texts": [(what, word, _text(text)) for what, word, text in answers],
        "unfinished": False,
        "marks": " · ".join(filter(None, marks)),
    }


def _text(text: str) -> str:
    return clipped(" ".join(text.split())) or "(empty)"
