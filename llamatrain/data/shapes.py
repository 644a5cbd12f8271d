"""What somebody's file holds: which of our kinds its rows are, by their own fields or through an adapter, and how much.

A reading is found by trying: the first that at least half of some rows pass. Where there is none, FOREIGN has a word for
what the rows look like and for what they can be made into.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamatrain.data import adapters, files, hub
from llamatrain.data.files import Place, Row
from llamatrain.data.folds import conversation_hash
from llamatrain.data.kinds import EXAMPLES, KINDS, check_row
from llamatrain.data.rows import Part, count_rows, read_part
from llamatrain.data.skipped import BadRows, LeftOut
from llamatrain.errors import UserError

MOST_ARRAY = 10**9  # bytes of a JSON array whose first elements are looked at
WORD = re.compile(r"[^\W\d_]+")
TRIED = 50  # rows by which a reading is found
MOST = 200_000  # rows that are read of a file
MOST_CHARACTERS = 10_000  # of a document, and documents, whose characters are counted
MOST_HUB = 2_000  # and of a data set of the hub, which is streamed
BUCKETS = 20  # into which conversations fall by their hash: those of every fold of 2, 4, 5, 10 or 20
OWN: tuple[str, ...] = ("comparison", "response", "judgement", "preference", "dialogue", "prompt")
PLAIN = ("hf", "messages", "paragraphs")  # adapters that take rows as they are


@dataclass
class Shape:
    """What a source was found to hold; sizes are bytes of text, a row each."""

    source: str  # a path, or a name on the hub
    adapter: str | None = None
    kind: str | None = None  # None: nothing that a program reads, and `why`
    looks: str = ""  # like what it looks where it is of no kind
    why: str = ""
    rows: int = 0
    more: bool = False  # there are more of them, uncounted
    sizes: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    characters: Counter[str] = field(default_factory=Counter)
    words: set[str] = field(default_factory=set)
    folds: dict[str, list[int]] = field(default_factory=dict)  # kind of preference, or "" -> rows by BUCKETS
    bad: BadRows = field(default_factory=lambda: BadRows("skip"))

    @property
    def spelled(self) -> str:
        """The source as programs read it."""
        return f"{self.adapter}:{self.source}" if self.adapter else self.source

    @property
    def size(self) -> int:
        """Bytes of text in all rows."""
        return int(sum(self.sizes) * self.rows / max(1, len(self.sizes)))

    def held_out(self, fold: int, kind: str = "") -> bool:
        """Tell whether fold 0 of so many, and the rest, each have a row (of a kind of preference, or any)."""
        chosen = [buckets for name, buckets in self.folds.items() if kind in ("", name)]
        held_out = sum(sum(buckets[::fold]) for buckets in chosen)
        return 0 < held_out < sum(map(sum, chosen))

    def divides(self, folds: int, kind: str) -> bool:
        """Tell whether each of so many folds has a preference of a kind."""
        return all(sum(self.folds.get(kind, [])[first::folds]) > 0 for first in range(folds))


def look(source: str) -> Shape:
    """Return what a file holds, or a data set of the hub, and how much of it: `recognize`, and read through."""
    shape = recognize(source)
    return _read_through(shape) if shape.kind is not None else shape


def recognize(source: str) -> Shape:
    """Return what a file holds, or a data set of the hub, by its first rows: a path or a name, an adapter before it or not.

    OSError or UserError where it cannot be read at all.
    """
    given, name = _given(source)
    path = Path(name)
    local = path.is_file()
    if local and files.is_text(path):
        return Shape(name, given, "document")
    rows, wrong = _first(path) if local else (_hub(name), "")
    if given is not None:
        kind = next((kind for kind in adapters.ADAPTERS[given] if _passes(rows, given, kind, name)), None)
        shape = Shape(name, given, kind, why="" if kind else f"the adapter {given} reads none of its rows")
    else:
        shape = _recognized(Shape(name), rows, wrong)
    if not local and shape.kind is not None and shape.adapter is None:
        shape.adapter = "hf"
    return shape


def _given(source: str) -> tuple[str | None, str]:
    """Split off an adapter that stands before a path or a name."""
    adapter, colon, name = source.partition(":")
    if not colon or adapter not in adapters.ADAPTERS or Path(source).exists():
        return None, source
    return (None if adapter == "hf" else adapter), name  # `hf` says where rows lie, not what they are


def _first(path: Path) -> tuple[list[Row], str]:
    """Return the first rows of a file, and what is wrong with the first bad one of them."""
    if path.suffix == ".json" and (array := _array(path)) is not None:
        rows = [row for row in array[:TRIED] if isinstance(row, dict)]
        return rows, "one JSON array: need a row per line, as `jq -c '.[]' a.json > a.jsonl` writes them"
    rows, wrong = list[Row](), ""
    for _, row in itertools.islice(files.read(path), 4 * TRIED):
        if isinstance(row, UserError):
            wrong = wrong or str(row)
        elif len(rows) < TRIED:
            rows.append(row)
    return rows, "" if rows else wrong or f"{path} is empty"


def _array(path: Path) -> list[Any] | None:
    """Return what a .json file holds where it is one array."""
    with path.open("rb") as file:
        if not file.read(4096).lstrip().startswith(b"["):
            return None
    if path.stat().st_size > MOST_ARRAY:
        return []
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _hub(name: str) -> list[Row]:
    return [row for _, row in itertools.islice(hub.read_hub(name, 0, 1), TRIED)]


# --- which reading -----------------------------------------------------------------------------------------------


def _recognized(shape: Shape, rows: Sequence[Row], wrong: str) -> Shape:
    """Say in a shape which reading its rows pass, or what they look like."""
    for adapter, kind in _readings(rows):
        if _passes(rows, adapter, kind, shape.source):
            shape.adapter, shape.kind = adapter, kind
            break
    if shape.kind is None and rows:
        shape.looks, shape.why = _left_out(rows, shape.source) or _foreign(rows) or _nearest(rows, shape.source)
    if wrong:  # nothing can be read, whatever it is
        looked = shape.looks or (f"{shape.kind} rows" if shape.kind else "")
        shape.adapter, shape.kind, shape.looks = None, None, looked
        shape.why = f"{wrong}{'. It ' if shape.why else ''}{shape.why}"
    return shape


def _readings(rows: Sequence[Row]) -> Iterator[tuple[str | None, str]]:
    """Yield (adapter, kind) to try, what says most first: any row with a text could be a document."""
    first = [(name, next(iter(kinds))) for name, kinds in adapters.ADAPTERS.items() if name not in PLAIN]
    rated = [reading for reading in first if reading[1] == "preference"]
    # Pairs of dialogues may have `messages` beside them.
    yield from ((None, kind) for kind in OWN[:4])
    yield from rated
    yield from ((None, kind) for kind in OWN[4:])
    yield from (reading for reading in first if reading not in rated and reading[1] != "document")
    if _foreign(rows) is None:
        if not any("chosen" in row or "rejected" in row for row in rows):
            yield "messages", "prompt"
        yield None, "document"


def _passes(rows: Sequence[Row], adapter: str | None, kind: str, name: str) -> bool:
    """Tell whether a reading takes a row at least, and most either give something or are left out as known."""
    whys = [_reads(row, adapter, kind, name) for row in rows]
    return None in whys and len(whys) <= 2 * sum(why is None or isinstance(why, LeftOut) for why in whys)


def _left_out(rows: Sequence[Row], name: str) -> tuple[str, str] | None:
    """Return which adapter knows most rows but makes nothing of them, and why of the first; None where there is none."""
    if any("messages" in row for row in rows):  # rows of our own form, or nearly: `_nearest` says more
        return None
    for adapter, kind in _readings(rows):
        whys = [_reads(row, adapter, kind, name) for row in rows] if adapter else []
        known = [why for why in whys if isinstance(why, LeftOut)]
        if 2 * len(known) > len(rows):
            return f"rows for the adapter {adapter}", f"the adapter {adapter} can use none of its rows: {known[0]}"
    return None


def _reads(row: Row, adapter: str | None, kind: str, name: str) -> UserError | str | None:
    """Return why a reading does not take a row; None where it does."""
    try:
        convert = adapters.ADAPTERS[adapter].get(kind) if adapter else None
        made = list(convert(row, name)) if convert else [] if adapter else [row]
        for one in made:
            check_row(dict(one), KINDS[kind], Place(name, unit=", row "))
        return None if made else "nothing"
    except UserError as error:
        return error
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        return str(error)


@dataclass(frozen=True)
class Foreign:
    """A shape of rows that no adapter knows."""

    looks: str
    is_so: Callable[[Row], bool]
    need: str


def _texts(row: Row, *names: str) -> bool:
    return all(isinstance(row.get(name), str) for name in names)


def _one_of(row: Row, *names: str) -> bool:
    return any(row.get(name) for name in names)


DIALOGUE, PREFERENCE = f"make each {EXAMPLES['dialogue']}", f"make each {EXAMPLES['preference']}"
NO_ADAPTER = "there is no adapter for them yet: "
TEXT_FIELDS = ("content", "body", "article", "story", "document", "raw_content", "Text")
FOREIGN = (
    Foreign(
        "single messages of OpenAssistant",
        lambda row: _texts(row, "message_id", "text", "role"),
        "take the file of trees, or " + DIALOGUE,
    ),
    Foreign(
        "pairs of answers to a question",
        lambda row: _texts(row, "chosen", "rejected") and _one_of(row, "question", "instruction"),
        PREFERENCE,
    ),
    Foreign(
        "questions with answers", lambda row: _texts(row, "question") and _one_of(row, "answer", "answers"), DIALOGUE
    ),
    Foreign("prompts", lambda row: _texts(row, "prompt") and "messages" not in row, f"make each {EXAMPLES['prompt']}"),
    Foreign(
        "texts",
        lambda row: not {"text", "messages"} & row.keys() and any(_texts(row, name) for name in TEXT_FIELDS),
        f"make each {EXAMPLES['document']}",
    ),
)


def _foreign(rows: Sequence[Row]) -> tuple[str, str] | None:
    """Return what most rows look like and what they can be made into; None where they look like nothing known."""
    for one in FOREIGN:
        if len(rows) <= 2 * sum(one.is_so(row) for row in rows):
            return one.looks, f"looks like {one.looks}; {NO_ADAPTER}{one.need}"
    return None


def _nearest(rows: Sequence[Row], name: str) -> tuple[str, str]:
    """Return what rows with some of our fields are nearest to, and what is wrong with the first; else their fields."""
    fields: set[str] = set().union(*(row.keys() for row in rows))
    kind: str | None = "preference" if {"chosen", "rejected"} & fields else "dialogue" if "messages" in fields else None
    if kind is None and "text" in fields:
        kind = "document"
    if kind is not None:
        wrong = next(str(why) for row in rows if (why := _reads(row, None, kind, name)))
        return f"nearly {kind}s", f"the rows are nearly {kind}s: {wrong.removeprefix(f'{name}, row 0: ')}"
    named = ", ".join(f"`{one}`" for one in sorted(fields)[:6])
    return (
        f"rows with {named or 'no fields'}",
        f"need rows with `text` or `messages`: {EXAMPLES['document']}, {EXAMPLES['dialogue']}",
    )


# --- how much ----------------------------------------------------------------------------------------------------


def _read_through(shape: Shape) -> Shape:
    """Read the rows, or the first MOST of them, and count what they hold."""
    assert shape.kind is not None
    local = Path(shape.source).is_file()
    # Of the hub the first shard is streamed: a whole set would be downloaded.
    part = Part(shape.spelled) if local else Part(shape.spelled, 0, 1)
    try:
        for _, row in itertools.islice(read_part(part, KINDS[shape.kind], shape.bad), MOST if local else MOST_HUB):
            _count(shape, row)
    except UserError as error:  # a file that is cut
        shape.kind, shape.why = None, str(error)
        return shape
    shape.rows = len(shape.sizes)
    if not shape.rows:
        shape.kind, shape.why = None, next(iter(shape.bad.first.values()), "it holds nothing")
    elif shape.rows == MOST and local:
        shape.rows = count_rows(shape.spelled)
    shape.more = shape.rows == MOST_HUB and not local
    return shape


def _count(shape: Shape, row: Row) -> None:
    kind = row["kind"] if shape.kind == "preference" else ""
    shape.bad.good += 1
    buckets = shape.folds.setdefault(kind, [0] * BUCKETS)
    buckets[conversation_hash(row) % BUCKETS] += 1
    messages = row.get("messages", ())
    told = row["text"] if shape.kind == "document" else "\n".join(message["content"] for message in messages)
    if len(shape.sizes) < MOST_CHARACTERS:
        shape.characters.update(told[:MOST_CHARACTERS])
        shape.words.update(WORD.findall(told[:MOST_CHARACTERS]))
    beside = max(len(row.get(side, "").encode()) for side in ("chosen", "rejected"))
    shape.sizes.append(len(told.encode()) + beside)
    if messages:
        answers = (message["content"] for message in reversed(messages) if message["role"] == "assistant")
        shape.answers.append(len((row.get("chosen") or next(answers, "")).encode()))
