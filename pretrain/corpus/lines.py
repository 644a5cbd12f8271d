"""Step lines: lines that a large share of a source's documents repeat are boilerplate, whatever they say.

Every piece counts its lines. A line that stands in a share of all documents stands in that share of some piece's
documents, so the candidates are few, and their exact counts come from the pieces' counts: nothing is estimated, and
memory holds one piece's lines.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .pieces import Piece, PieceWriter

Hashes = NDArray[np.uint64]


def _hash(line: str) -> int:
    return int.from_bytes(hashlib.blake2b(line.strip().encode(), digest_size=8).digest(), "little")


def count_lines(folder: Path, piece: Piece) -> None:
    """Write the hashes of a piece's lines, rising, and in how many documents each stands."""
    counts: Counter[int] = Counter()
    for _, texts in piece.batches():
        for text in texts:
            if "\n" in text:  # the only line of a document is its text, not boilerplate
                counts.update({_hash(line) for line in text.split("\n") if line.strip()})
    found = np.array(sorted(counts.items()), dtype=np.uint64).reshape(-1, 2)
    np.save(folder / "lines.npy", found)


def repeated(counted: Sequence[Path], documents: Sequence[int], share: float, least: int) -> Hashes:
    """Return the hashes of the lines that stand in `share` of one source's documents and in `least` of them."""
    total = sum(documents)
    if not total:
        return np.empty(0, dtype=np.uint64)
    needed = max(share * total, least)
    candidates: set[int] = set()
    for folder, count in zip(counted, documents, strict=True):
        lines = np.load(folder / "lines.npy")
        # Below its share in every piece a line cannot reach it in all of them together.
        often = lines[:, 1] >= max(1, needed * count / total)
        candidates.update(lines[often, 0].tolist())
    chosen = np.array(sorted(candidates), dtype=np.uint64)
    sums = np.zeros(len(chosen), dtype=np.uint64)
    for folder in counted if len(chosen) else ():
        lines = np.load(folder / "lines.npy")
        if not len(lines):
            continue
        # Both are sorted: where a hash would stand in the piece, and its count there if it does.
        at = np.minimum(np.searchsorted(lines[:, 0], chosen), len(lines) - 1)
        sums += np.where(lines[at, 0] == chosen, lines[at, 1], np.uint64(0))
    return chosen[sums >= needed]


def drop_lines(folder: Path, piece: Piece, hashes: Hashes) -> None:
    """Write the piece again without the lines of these hashes."""
    dropped = frozenset(hashes.tolist())
    facts = piece.facts
    counts = Counter(facts["counts"])
    writer = PieceWriter(folder / "000000")
    names = facts["hosts"]
    rows = piece.array("rows").tolist()
    hosts = piece.array("hosts").tolist() if piece.has("hosts") else [-1] * piece.documents
    for numbers, texts in piece.batches():
        for number, text in zip(numbers.tolist(), texts, strict=True):
            if "\n" in text:
                lines = text.split("\n")
                kept = [line for line in lines if not line.strip() or _hash(line) not in dropped]
                if len(kept) < len(lines):
                    counts["repeated_lines"] += 1
                    counts["repeated_lines_lines"] += len(lines) - len(kept)
                    text = "\n".join(kept)
            writer.add(text, rows[number], None if hosts[number] < 0 else names[hosts[number]])
    writer.close(counts, place=facts["place"], rows=facts["rows"])
