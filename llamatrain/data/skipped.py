"""Rows that a program leaves out: counted by reason and said, as a warning where they are many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from llamatrain.errors import UserError

BAD_ROWS = ("stop", "skip")
MANY = 0.1  # of all rows: what is lost beyond that is said as a warning
SHOWN = 5  # reasons
NAMED = 10  # rows of a reason


class LeftOut(UserError):
    """A row of somebody's data set that is as it should be, but gives nothing: left out and counted, never a stop."""


class BadRows:
    """What becomes of rows that cannot be used, as the key `bad_rows` says: `stop` at the first, or `skip` and count.

    None is `stop` in a program without the key. Rows that an adapter leaves out are counted whatever it says.
    """

    def __init__(self, policy: str | None = None) -> None:
        assert policy in (None, *BAD_ROWS), policy
        self.policy, self.good, self.wrong = policy, 0, 0  # wrong: those at which `stop` stops
        self.counts: Counter[str] = Counter()  # reason -> rows
        self.first: dict[str, str] = {}  # reason -> what is wrong with its first row
        self.places: dict[str, list[str]] = {}  # reason -> where its first rows stand
        self.stops = ""  # what is wrong with the first at which `stop` stops

    def __call__(self, error: UserError) -> None:
        """Take a bad row's error: raise it, or count it."""
        if not isinstance(error, LeftOut):
            self._refuse(error)
            self.wrong += 1
            self.stops = self.stops or str(error)
        reason = _reason(str(error))
        self.counts[reason] += 1
        self.first.setdefault(reason, str(error))
        places = self.places.setdefault(reason, [])
        if len(places) < NAMED:
            places.append(_place(str(error)))

    def _refuse(self, error: UserError) -> None:
        if self.policy is None:
            raise error
        if self.policy == "stop":
            raise UserError(f"{error}; bad_rows=skip skips such rows") from error

    def join(self, other: BadRows) -> None:
        """Take the bad rows that another counted, after these: raise its first error, or count them."""
        if other.stops:
            self._refuse(UserError(other.stops))
        self.good, self.wrong = self.good + other.good, self.wrong + other.wrong
        self.stops = self.stops or other.stops
        self.counts.update(other.counts)
        for reason, error in other.first.items():
            self.first.setdefault(reason, error)
            places = self.places.setdefault(reason, [])
            places += other.places[reason][: NAMED - len(places)]

    def content(self) -> dict[str, Any]:
        """Return the bad rows as JSON has them; `of` makes them from it."""
        return {name: getattr(self, name) for name in ("wrong", "counts", "first", "places", "stops")}

    @classmethod
    def of(cls, content: dict[str, Any]) -> BadRows:
        """Return the bad rows that `content` told, to be joined to others."""
        made = cls("skip")
        made.wrong, made.stops = content["wrong"], content["stops"]
        made.counts, made.first, made.places = Counter(content["counts"]), content["first"], content["places"]
        return made

    def say(self, say: Callable[[str], None]) -> None:
        """Say how many rows were left out and, for every reason, what is wrong with the first of them."""
        count = self.counts.total()
        if not count:
            return
        say(
            warned(
                f"{count:,} of {count + self.good:,} rows skipped, as they cannot be used:", count, count + self.good
            )
        )
        for reason, alike in self.counts.most_common(SHOWN):
            say(f"  {alike:,} like {self.first[reason]}")
            if alike > 1 and all(self.places[reason]):
                say(f"    at {named(self.places[reason], alike)}")
        if len(self.counts) > SHOWN:
            say(f"  and {len(self.counts) - SHOWN} other reasons")


def warned(line: str, lost: int, total: int) -> str:
    """Return a line about `lost` rows of `total`, as a warning where they are many."""
    return f"warning: {line}" if lost > MANY * total else line


def named(places: Sequence[str], count: int) -> str:
    """Return the first places of `count` rows in words, a file once: `pairs.jsonl:3, 17, 20 and 4 more`."""
    words, before = list[str](), ""
    for place in places:
        number = re.split(r"\D", place)[-1]
        path = place.removesuffix(number)
        words.append(number if path == before else place)
        before = path
    return f"{', '.join(words)}{f' and {count - len(places):,} more' if count > len(places) else ''}"


def _place(message: str) -> str:
    """Return where the row of an error stands: `file:line`, or "" where it does not say."""
    match = re.match(r"(.*?(?::|, row )\d+): ", message)
    return match[1] if match else ""


def _reason(message: str) -> str:
    """Return an error without where it stands and what was found there, which differ from row to row."""
    text = re.sub(r"^.*?(:|, row )\d+: |\[\d+\]", "", message)  # file:line, and the number of a message in a row
    return re.sub(r"found .*?, (?=need )|\(.*?\)", "", text)
