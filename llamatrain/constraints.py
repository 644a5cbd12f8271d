"""Instructions that hold for a whole dialogue: random combinations of constraints (paper 3.3, A.3.5). Imports no torch.

A file of constraints is YAML or JSON, kind -> `full` and `short` wordings, in which {} is the value, and `values`: a list, or value ->
the words that every answer which keeps to it holds, whatever was asked (null where only a reader can tell). A kind may have a question
`ask`, whose answer holds the words, or else the value, where the model still knows it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UserError, show
from .yaml_files import read_yaml

KEYS = ("full", "short", "values")


@dataclass(frozen=True)
class Constraint:
    """One kind of constraint."""

    full: str
    short: str
    values: dict[str, str | None]
    ask: str | None = None


@dataclass(frozen=True)
class Instruction:
    """An instruction in full and in short, and by kind of constraint the value and the words that show it.

    `asks`: of kinds that have a question, that and the words that its answer holds.
    """

    full: str
    short: str
    chosen: dict[str, str]
    marks: dict[str, str | None]
    asks: dict[str, tuple[str, str]] = field(default_factory=dict)

    def kept(self, response: str, replies: Mapping[str, str] | None = None) -> dict[str, bool | None]:
        """Tell of each kind whether the response holds its words as whole words; None where only a reader can tell.

        Of a kind in `replies` it is told by the reply to its question instead.
        """
        told = {kind: None if mark is None else _holds(response, mark) for kind, mark in self.marks.items()}
        return told | {kind: _holds(reply, self.asks[kind][1]) for kind, reply in (replies or {}).items()}


def _holds(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def draw_instruction(constraints: Mapping[str, Constraint], rng: random.Random) -> Instruction:
    """Return a random combination of one to all kinds, in random order, with a random value each."""
    kinds = rng.sample(list(constraints), rng.randint(1, len(constraints)))
    chosen = {kind: rng.choice(list(constraints[kind].values)) for kind in kinds}
    full = " ".join(constraints[kind].full.format(value) for kind, value in chosen.items())
    short = " ".join(constraints[kind].short.format(value) for kind, value in chosen.items())
    marks = {kind: constraints[kind].values[value] for kind, value in chosen.items()}
    asks = {kind: (ask, marks[kind] or value) for kind, value in chosen.items() if (ask := constraints[kind].ask)}
    return Instruction(full, short, chosen, marks, asks)


def read_constraints(path: Path) -> dict[str, Constraint]:
    """Return the constraints of a file by kind; UserError naming the file and what it lacks."""
    if not path.is_file():
        raise UserError(f"constraints={path}: there is no such file; null takes those of sft/constraints.yaml")
    found = read_yaml(path)
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path}: found {show(found)}, need kinds of constraints, each with {', '.join(KEYS)}")
    return {str(kind): _constraint(one, f"{path}: {kind}") for kind, one in found.items()}


def _constraint(one: Any, where: str) -> Constraint:
    if not isinstance(one, dict) or set(one) - {"ask"} != set(KEYS):
        raise UserError(f"{where}: found {show(one)}, need {', '.join(KEYS)} and nothing else but ask")
    for form in ("full", "short"):
        if not isinstance(one[form], str) or one[form].count("{}") != 1:
            raise UserError(
                f"{where}.{form}: found {show(one[form])}, need a text with one {{}}, where the value stands"
            )
    values = dict.fromkeys(one["values"]) if isinstance(one["values"], list) else one["values"]
    told = isinstance(values, dict) and all(isinstance(v, str) and isinstance(m, str | None) for v, m in values.items())
    if not told or not values:
        raise UserError(
            f"{where}.values: found {show(one['values'])}, need a list of texts, or texts with the words that show them"
        )
    ask = one.get("ask")
    if ask is not None and (not isinstance(ask, str) or not ask.strip()):
        raise UserError(f"{where}.ask: found {show(ask)}, need a question")
    return Constraint(one["full"], one["short"], values, ask)
