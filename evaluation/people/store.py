"""What is rated, who rates, and every verdict, in an SQLite file that a kill cannot spoil.

A verdict is on the disk before its page is answered: WAL with synchronous=FULL, one transaction each. Nothing is ever
deleted: a verdict that is taken back stays, with the time of it.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY, place INTEGER NOT NULL, content TEXT NOT NULL, known TEXT, owner TEXT, follows INTEGER);
CREATE INDEX IF NOT EXISTS items_in_order ON items (place);
CREATE TABLE IF NOT EXISTS raters (name TEXT PRIMARY KEY, token TEXT NOT NULL UNIQUE, leads INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS shown (
    item TEXT NOT NULL REFERENCES items, rater TEXT NOT NULL REFERENCES raters,
    swapped INTEGER NOT NULL, since REAL NOT NULL, PRIMARY KEY (item, rater));
CREATE TABLE IF NOT EXISTS verdicts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, item TEXT NOT NULL, rater TEXT NOT NULL, key TEXT NOT NULL UNIQUE,
    content TEXT NOT NULL, seconds REAL NOT NULL, at REAL NOT NULL, undone REAL,
    FOREIGN KEY (item, rater) REFERENCES shown);
CREATE UNIQUE INDEX IF NOT EXISTS one_verdict ON verdicts (item, rater) WHERE undone IS NULL;
"""
LEASE = 1800.0  # seconds that an item which somebody has open is kept from others
# An item's raters so far: those whose verdict stands, and others than the asking one who have had it open for less than a lease.
TAKEN = """(SELECT count(*) FROM shown s LEFT JOIN verdicts v ON v.item = s.item AND v.rater = s.rater AND v.undone IS NULL
    WHERE s.item = i.id AND (v.number IS NOT NULL OR (s.rater != :rater AND s.since > :leased)))"""
COLUMNS = "i.id, i.content, i.known, i.owner, i.follows"
STANDS = "(i.follows IS NULL OR EXISTS (SELECT 1 FROM verdicts p WHERE p.number = i.follows AND p.undone IS NULL))"
UNRATED = "NOT EXISTS (SELECT 1 FROM verdicts v WHERE v.item = i.id AND v.rater = :rater AND v.undone IS NULL)"


@dataclass(frozen=True)
class Item:
    """Something to rate. `known` is the verdict that a gold item's answer is, `owner` the only one who rates it.

    `follows` is the verdict whose chosen response its conversation goes on from; taken back, the item is, too.
    """

    id: str
    content: dict[str, Any]
    known: dict[str, Any] | None = None
    owner: str | None = None
    follows: int | None = None


@dataclass(frozen=True)
class Rater:
    """Who came by which invitation; one `leads`: sees how far all are, invites, and finishes."""

    name: str
    token: str
    leads: bool


@dataclass(frozen=True)
class Verdict:
    """What a rater said of an item, in how many seconds."""

    number: int
    item: str
    rater: str
    content: dict[str, Any]
    seconds: float
    at: float


@dataclass
class Store:
    """The file; every method is a transaction and may be called from any thread."""

    path: Path
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        """Open the file, or make it; it holds the invitations' tokens, so that nobody else may read it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch(mode=0o600)
        self._base = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.executescript(SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def _all(self, query: str, **values: Any) -> list[Any]:
        with self._lock:
            return self._base.execute(query, values).fetchall()

    # --- facts, items, raters ------------------------------------------------------------------------------------

    def fact(self, name: str) -> str | None:
        """Return a remembered value."""
        found = self._all("SELECT value FROM facts WHERE name = :name", name=name)
        return str(found[0][0]) if found else None

    def remember(self, name: str, value: str) -> str:
        """Remember a value where none is remembered yet; return the one that is."""
        with self._transaction() as base:
            base.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, value))
        return self.fact(name) or value

    def add(self, items: Iterable[Item]) -> None:
        """Add items behind those that are there; of those that are, nothing changes."""
        with self._transaction() as base:
            (last,) = base.execute("SELECT coalesce(max(place), 0) FROM items").fetchone()
            for place, item in enumerate(items, start=last + 1):
                known = None if item.known is None else json.dumps(item.known)
                row = (item.id, place, json.dumps(item.content), known, item.owner, item.follows)
                base.execute("INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?, ?)", row)

    def item(self, name: str) -> Item | None:
        """Return an item by its id."""
        found = self._all(f"SELECT {COLUMNS} FROM items i WHERE i.id = :name", name=name)
        return _item(*found[0]) if found else None

    def items(self) -> dict[str, Item]:
        """Return all items by their ids, in their order."""
        return {row[0]: _item(*row) for row in self._all(f"SELECT {COLUMNS} FROM items i ORDER BY i.place")}

    def invite(self, name: str, leads: bool = False) -> Rater:
        """Return a rater's invitation, made at the first call."""
        with self._transaction() as base:
            base.execute("INSERT OR IGNORE INTO raters VALUES (?, ?, ?)", (name, secrets.token_urlsafe(24), leads))
        return next(rater for rater in self.raters() if rater.name == name)

    def raters(self) -> list[Rater]:
        """Return all who were invited, in the order of their invitations."""
        rows = self._all("SELECT name, token, leads FROM raters ORDER BY rowid")
        return [Rater(name, token, bool(leads)) for name, token, leads in rows]

    def who(self, token: str) -> Rater | None:
        """Return whose token this is; compared in a time that tells nothing of it."""
        given = token.encode()
        return next((r for r in self.raters() if secrets.compare_digest(r.token.encode(), given)), None)

    # --- what is given to whom -----------------------------------------------------------------------------------

    def give(self, rater: str, each: int, gold_every: int, swap: Callable[[Item], bool]) -> tuple[Item, bool] | None:
        """Return what a rater has open or is given now, and whether its sides are swapped: as `swap` says, once for all.

        It is an item with fewer than `each` raters or, after every `gold_every` of them, a gold one that is not rated
        yet. None where nothing is left for this rater.
        """
        with self._lock:  # of two who ask at once, the second finds what the first was given
            item = self._next(rater, each, gold_every)
            return None if item is None else (item, self.show(item.id, rater, swap(item)))

    def _next(self, rater: str, each: int, gold_every: int) -> Item | None:
        values = {"rater": rater, "leased": time.time() - LEASE, "each": each}
        fields = f"SELECT {COLUMNS} FROM items i"
        # What they asked for and have not seen yet comes first, then what was shown last: an undone item before its successor.
        theirs = f"""{fields} LEFT JOIN shown o ON o.item = i.id AND o.rater = :rater
            WHERE (o.item IS NOT NULL OR i.owner = :rater) AND {UNRATED} AND {STANDS}
            AND (i.known IS NOT NULL OR i.owner = :rater OR {TAKEN} < :each) ORDER BY coalesce(o.since, 9e99) DESC"""
        gold = f"{fields} WHERE i.known IS NOT NULL AND {UNRATED} ORDER BY i.place"
        usual = f"{fields} WHERE i.known IS NULL AND i.owner IS NULL AND {UNRATED} AND {TAKEN} < :each ORDER BY i.place"
        found: list[Any] = []
        for query in (theirs, gold, usual) if self._gold_due(rater, gold_every) else (theirs, usual):
            found = found or self._all(f"{query} LIMIT 1", **values)
        return _item(*found[0]) if found else None

    def _gold_due(self, rater: str, every: int) -> bool:
        counted = """SELECT count(*), count(i.known) FROM verdicts v JOIN items i ON i.id = v.item
            WHERE v.rater = :rater AND v.undone IS NULL"""
        ((done, gold),) = self._all(counted, rater=rater)
        return bool((done - gold) // every > gold)

    def open_after(self, rater: str, number: int) -> bool:
        """Tell whether a rater has an item to rate that follows a verdict."""
        query = f"SELECT 1 FROM items i WHERE i.owner = :rater AND i.follows = :number AND {UNRATED}"
        return bool(self._all(query, rater=rater, number=number))

    def show(self, item: str, rater: str, swapped: bool) -> bool:
        """Note that a rater has an item open, and which side came first; return what was noted at the first call."""
        with self._transaction() as base:
            base.execute("INSERT OR IGNORE INTO shown VALUES (?, ?, ?, ?)", (item, rater, swapped, time.time()))
        return bool(self.swapped(item, rater))

    def swapped(self, item: str, rater: str) -> bool | None:
        """Return which side came first for a rater; None where the item was never shown to them."""
        found = self._all("SELECT swapped FROM shown WHERE item = :item AND rater = :rater", item=item, rater=rater)
        return bool(found[0][0]) if found else None

    # --- verdicts ------------------------------------------------------------------------------------------------

    def record(self, item: str, rater: str, key: str, content: dict[str, Any]) -> Verdict | None:
        """Keep a verdict on an item that was shown; None where this form, or another one, has said one already."""
        now = time.time()
        with self._transaction() as base:
            (since,) = base.execute("SELECT since FROM shown WHERE item = ? AND rater = ?", (item, rater)).fetchone()
            done = base.execute(
                "INSERT OR IGNORE INTO verdicts (item, rater, key, content, seconds, at) VALUES (?, ?, ?, ?, ?, ?)",
                (item, rater, key, json.dumps(content), round(now - since, 2), now),
            )
            kept = done.rowcount > 0
        return self.last(rater) if kept else None

    def last(self, rater: str) -> Verdict | None:
        """Return a rater's last verdict that stands."""
        found = self._verdicts("WHERE rater = :rater AND undone IS NULL ORDER BY number DESC LIMIT 1", rater=rater)
        return found[0] if found else None

    def verdict(self, rater: str, number: int) -> Verdict | None:
        """Return a rater's verdict by its number, where it stands."""
        found = self._verdicts(
            "WHERE rater = :rater AND number = :number AND undone IS NULL", rater=rater, number=number
        )
        return found[0] if found else None

    def undo(self, rater: str, number: int) -> bool:
        """Take a rater's verdict back, so that its item is open again; tell whether it stood."""
        with self._transaction() as base:
            told = (time.time(), number, rater)
            undone = base.execute(
                "UPDATE verdicts SET undone = ? WHERE number = ? AND rater = ? AND undone IS NULL", told
            ).rowcount
            if undone:
                base.execute(
                    "UPDATE shown SET since = ? WHERE rater = ? AND item = (SELECT item FROM verdicts WHERE number = ?)",
                    (time.time(), rater, number),
                )
        return bool(undone)

    def verdicts(self) -> list[Verdict]:
        """Return all that stand, in the order in which they were said."""
        return self._verdicts("WHERE undone IS NULL ORDER BY number")

    def _verdicts(self, which: str, **values: Any) -> list[Verdict]:
        rows = self._all(f"SELECT number, item, rater, content, seconds, at FROM verdicts {which}", **values)
        return [Verdict(n, item, who, json.loads(content), seconds, at) for n, item, who, content, seconds, at in rows]

    def progress(self, each: int) -> tuple[int, int]:
        """Return how many verdicts there are of the items that all may rate, and how many are wanted: `each` of every one."""
        counted = """SELECT count(*), coalesce(sum(min(:each,
            (SELECT count(*) FROM verdicts v WHERE v.item = i.id AND v.undone IS NULL))), 0)
            FROM items i WHERE i.known IS NULL AND i.owner IS NULL"""
        ((items, done),) = self._all(counted, each=each)
        return int(done), int(items) * each


def _item(name: str, content: str, known: str | None, owner: str | None, follows: int | None) -> Item:
    return Item(name, json.loads(content), None if known is None else json.loads(known), owner, follows)
