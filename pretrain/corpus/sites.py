"""Sites that hold much personal information are dropped as sites (paper 4.1), by url host over a whole source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .config import Personal
from .personal import KINDS
from .pieces import Piece, read_json


@dataclass
class Site:
    """A site that was dropped, and why: what its documents hold together."""

    source: int
    host: str
    documents: int
    words: int
    found: dict[str, int]
    per_1000_words: float

    def content(self, source: str) -> dict[str, Any]:
        """Return the site as JSON may hold it, with its source's name."""
        return {**asdict(self), "source": source}


def judge(pieces: Sequence[Piece], examined: Sequence[Path], settings: Personal) -> list[Site]:
    """Return the sites whose density reaches the threshold, by source and host."""
    totals: dict[tuple[int, str], list[int]] = {}
    for piece, folder in zip(pieces, examined, strict=True):
        for host, counts in read_json(folder / "examined.json")["sites"].items():
            known = totals.setdefault((piece.source, host), [0] * len(counts))
            for place, value in enumerate(counts):
                known[place] += value
    dropped = []
    for (source, host), (documents, words, *counts) in sorted(totals.items()):
        density = 1000 * sum(counts) / max(words, 1)
        # A single page says little of a site: some have their own address on it and nothing else.
        if documents >= settings.min_documents and density >= settings.per_1000_words:
            found = dict(zip(KINDS, counts, strict=True))
            dropped.append(Site(source, host, documents, words, found, density))
    return dropped
