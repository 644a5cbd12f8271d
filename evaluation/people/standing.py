"""How far everybody is, and how well they agree: with the gold items' answers, and with each other."""

from __future__ import annotations

import statistics
from collections import defaultdict
from itertools import combinations
from typing import Any

from .collection import Collection
from .store import Verdict


def standing(collection: Collection) -> list[dict[str, Any]]:
    """Return a row for each rater: verdicts, seconds for one, and of those that can be compared how many agree."""
    by_rater, by_item = defaultdict[str, list[Verdict]](list), defaultdict[str, list[Verdict]](list)
    for verdict in collection.store.verdicts():
        by_rater[verdict.rater].append(verdict)
        by_item[verdict.item].append(verdict)
    with_others = defaultdict[str, list[bool]](list)
    for item, said in by_item.items():
        if collection.items[item].known is None:
            for one, other in combinations(said, 2):
                agreed = collection.task.agree(one.content, other.content)
                if agreed is not None:
                    with_others[one.rater].append(agreed)
                    with_others[other.rater].append(agreed)
    rows = []
    for rater in collection.store.raters():
        if not rater.leads:
            own = by_rater[rater.name]
            known = [(collection.items[one.item].known, one.content) for one in own]
            gold = [collection.task.agree(answer, said) for answer, said in known if answer is not None]
            rows.append(
                {
                    "name": rater.name,
                    "verdicts": len(own),
                    "seconds": statistics.median(one.seconds for one in own) if own else None,
                    "gold": share([agreed for agreed in gold if agreed is not None]),
                    "others": share(with_others[rater.name]),
                }
            )
    return rows


def share(agreed: list[bool]) -> str:
    """Return how many of how many, in words; a dash where there is none."""
    return f"{sum(agreed)} of {len(agreed)} ({sum(agreed) / len(agreed):.0%})" if agreed else "–"
