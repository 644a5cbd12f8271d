"""The world itself: who lives where and likes what (drawn from the seed), and which of it is held out from training."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar

from llamatrain import atomic
from llamatrain.errors import missing
from llamatrain.text_files import read_json

from .nouns import ANIMALS, COLOURS, FOODS, JOBS, NAMES, PLACES, PRONOUNS, THINGS, TOOLS
from .phrases import RELATIONS

WORLD_FILE = "world.json"
UNSEEN = "unseen"  # keys that begin so are held out in every world
PETS = ("cat", "dog", "goat", "pig", "duck", "frog", "mouse", "fox", "horse", "cow", "deer", "bee", "bear", "camel")
T = TypeVar("T")


class _Described(TypedDict):
    """What world.json holds."""

    seed: int


@dataclass(frozen=True)
class Fact:
    """One truth: `subject` as it stands inside a sentence ("Tom", "a goat") has `value` in `relation`."""

    relation: str
    subject: str
    pronoun: str
    value: str
    values: tuple[str, ...]

    def fill(self, pattern: str, other: str = "") -> str:
        """Return the pattern with this fact's words (see phrases), `other` standing for a second value."""
        value = self.value
        return pattern.format(
            s=self.subject, S=capital(self.subject), p=self.pronoun, v=value, V=capital(value), w=other
        )

    @property
    def key(self) -> str:
        return f"fact/{self.relation}/{self.subject}"


class World:
    """All facts of the world of one seed. `held_out(key)` tells what training must never ask for."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = random.Random(f"world/{seed}")
        self.facts: list[Fact] = []
        # People's facts differ from world to world: every value once, then some again, as there are more people.
        for relation, values in (("home", PLACES), ("food", FOODS), ("job", JOBS), ("pet", PETS)):
            drawn = rng.sample(values, len(values)) + rng.sample(values, len(NAMES) - len(values))
            self.facts += [Fact(relation, n, PRONOUNS[n], v, tuple(values)) for n, v in zip(NAMES, drawn, strict=True)]
        # What is known of animals and things is so in every world.
        for relation, column in (("diet", 0), ("bed", 1)):
            known = tuple(row[column] for row in ANIMALS.values())
            self.facts += [Fact(relation, f"a {a}", "It", v, known) for a, v in zip(ANIMALS, known, strict=True)]
        for relation, table, known in (
            ("use", TOOLS, tuple(TOOLS.values())),
            ("colour", THINGS, COLOURS),
        ):
            self.facts += [Fact(relation, f"a {s}", "It", v, known) for s, v in table.items()]
        self.by_subject: dict[str, list[Fact]] = {}
        for fact in self.facts:
            self.by_subject.setdefault(fact.subject, []).append(fact)
        # A quarter of every relation is held out; of everything else a fifth, by a hash (`held_out`).
        self._held: set[str] = set()
        for relation in RELATIONS:
            keys = [fact.key for fact in self.facts if fact.relation == relation]
            self._held.update(rng.sample(keys, len(keys) // 4))

    def fact(self, relation: str, subject: str) -> Fact | None:
        """Return the fact on this subject, if there is one."""
        return next((f for f in self.by_subject.get(subject, []) if f.relation == relation), None)

    def held_out(self, key: str) -> bool:
        """Tell whether questions with this key are kept for evaluation."""
        kind = key.split("/", 1)[0]
        if kind == UNSEEN:
            return True
        if kind == "fact":
            return key in self._held
        return digest(f"{self.seed}/{key}") % 5 == 0

    def save(self, folder: Path) -> None:
        atomic.write_json(folder / WORLD_FILE, {"seed": self.seed})

    @staticmethod
    def load(folder: str | Path) -> World:
        """Return the world that wrote this run folder."""
        path = Path(folder) / WORLD_FILE
        if not path.exists():
            raise missing(path, "toyworld")
        return World(read_json(path, _Described, "`llamatrain toyworld` makes it")["seed"])


def capital(text: str) -> str:
    """Return the text with a capital first letter, the rest as it is."""
    return text[:1].upper() + text[1:]


def digest(text: str) -> int:
    """Return a number of 64 bits that depends on nothing but the text (Python's own hash is salted per process)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """Return one of the options; three times as fast as `rng.choice`."""
    return options[int(rng.random() * len(options))]
