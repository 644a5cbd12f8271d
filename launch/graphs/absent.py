"""Which data a stage needs that a chain leaves out for lack of them, by the graphs that more data would give."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from typing import Any

from ..graph import Graph, Stage
from .chat import KINDS, Chat, Data, Pairs

Builder = Callable[[Graph, Any, Any], None]
PAIRS = ("preferences", "preferences_eval")
ROLES = [one.name for one in fields(Data) if one.name not in ("root", "world", "checkpoint", *PAIRS)]
ALL = [*ROLES, *(f"{role}.{kind}" for role in PAIRS for kind in KINDS)]


def why_absent(build: Builder, cfg: Chat, data: Data) -> Callable[[str], str]:
    """Return what says, of a stage or program that a chain does not have, which data it lacks; empty where none help."""

    def stages(without: Collection[str]) -> dict[str, Stage]:
        """Return those of a chain with all data but some."""
        graph = Graph()
        build(graph, replace(cfg, measure_kept=[]), _completed(data, without))
        return graph.stages

    def needed(stage: str, order: Sequence[str]) -> tuple[str, ...]:
        """Return a least set of roles with which it is there, those that come first in the order left out before the others."""
        without = list[str]()
        for role in order:
            if stage in stages([*without, role]):
                without.append(role)
        return tuple(f"data.{role}" for role in ALL if role not in without)

    def why(name: str) -> str:
        known = stages(()).values()
        asked = [one.name for one in known if name == one.name]
        asked = asked or [one.name for one in known if name in (one.program, one.program.replace(".", "_"))]
        if not asked:
            return ""
        sets = dict.fromkeys(
            needed(asked[0], order) for order in (ALL, ALL[::-1])
        )  # preferences, or ratings in their place
        return f"'{name}' is left out for lack of data: need {', or '.join(' and '.join(one) for one in sets)}"

    return why


def _completed(data: Data, without: Collection[str]) -> Data:
    """Return data with a stand-in for each file that is missing, but for some roles."""
    made: dict[str, Any] = {}
    for role in ROLES:
        value = getattr(data, role)
        if not value and role not in without:
            made[role] = ["-"] if isinstance(value, list) else "-"
    for role in PAIRS:
        pairs: Pairs = getattr(data, role)
        lacks = [kind for kind in KINDS if not pairs.of(kind) and f"{role}.{kind}" not in without]
        made[role] = replace(pairs, **{kind: ["-"] for kind in lacks})
    return replace(data, **made)
