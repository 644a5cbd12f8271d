"""Steps exact and near: of several like documents the first is kept, across sources, held-out ones before all others.

Every piece's keys are sorted. A task takes one range of keys of one band from all pieces, so memory holds a range,
whatever the size of the corpus. Documents that share a key stand in a run, by their numbers. Its first is compared
with all others; those at least `similarity` alike (exact Jaccard of their shingles) are removed, and the first of the
rest is next, for LEADERS rounds.

Bands follow one another, so that what is removed costs no more comparisons. A document that a later band removes may
have been the reason to remove others: each of those is compared with the document that is kept now, and comes back
where it is not like it. So every removed document is like one that is kept, and the report names both. Equal documents
may come back together, the last time with no band left to compare them: the exact step runs once more at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatrain import atomic

from . import shingles
from .config import Duplicates
from .examining import EXACT, KEPT, NEAR
from .pieces import Numbers, Piece
from .work import Bar, Unseen, Work

LEADERS = 4  # of a run, which the others are compared with
RANGE = 1 << 19  # keys a task holds, about
TEXT_BYTES = 1 << 22  # of text a task holds at a time

Keys = NDArray[np.uint64]


@dataclass
class State:
    """What is known of every document so far, by its number: 9 bytes each (13 from two thousand million on)."""

    status: NDArray[np.uint8]
    keeper: NDArray[np.signedinteger[Any]]  # the document for which it was removed, -1 for none
    similarity: NDArray[np.float32]


def remove(work: Work, pieces: Sequence[Piece], status: NDArray[np.uint8], settings: Duplicates) -> State:
    """Find duplicates among the documents whose status is KEPT; return everyone's status."""
    number = np.dtype(np.int32 if len(status) < 1 << 31 else np.int64)
    state = State(status, np.full(len(status), -1, dtype=number), np.zeros(len(status), dtype=np.float32))
    # Held-out documents have the first numbers: `held_out` is where training documents begin, which alone are removed;
    # from `first` on documents are compared.
    held_out = sum(piece.documents for piece in pieces if piece.held_out)
    first = 0 if settings.held_out else held_out
    ranges = -(-max(1, len(status)) // RANGE)
    examined = work.folder / "examine"

    def drop_equal(step: str, why: int, bar: Bar | None = None) -> None:
        alive = _saved(work, state)
        tasks = [(examined, list(pieces), alive, number, ranges, first, held_out) for number in range(ranges)]
        for folder in work.run(step, find_exact, tasks, bar):
            _apply(state, np.load(folder / "found.npz"), why)

    if settings.exact:
        drop_equal("exact", EXACT)
    if settings.near:
        with work.bar(settings.bands * ranges, "near", "chunks") as bar:
            for band in range(settings.bands):
                alive = _saved(work, state)
                ranged = [
                    (examined, list(pieces), alive, band, number, ranges, first, held_out, settings)
                    for number in range(ranges)
                ]
                for folder in work.run(f"near/{band:02d}", find_near, ranged, bar):
                    _apply(state, np.load(folder / "found.npz"), NEAR)
                _reconsider(work, pieces, state, band, settings)
        drop_equal("again/exact", EXACT if settings.exact else NEAR, Unseen())
        # Whose keeper was an exact duplicate: that one's keeper has the same text, so it is as like them.
        orphans = _orphans(state)
        state.keeper[orphans] = state.keeper[state.keeper[orphans]]
    return state


def _saved(work: Work, state: State) -> Path:
    """Write which documents are still in, for the tasks that come next."""
    path = work.folder / "alive.npy"
    with atomic.replacing(path) as file:
        np.save(file, state.status == KEPT)
    return path


def _apply(state: State, found: dict[str, NDArray[np.float32]], status: int) -> None:
    documents = found["documents"]
    state.status[documents] = status
    state.keeper[documents] = found["keepers"]
    state.similarity[documents] = found["similarity"]


def _orphans(state: State) -> Numbers:
    """Return the removed documents whose keeper has been removed."""
    removed = np.flatnonzero(state.keeper >= 0)
    orphans: Numbers = removed[state.status[state.keeper[removed]] != KEPT]
    return orphans


def _reconsider(work: Work, pieces: Sequence[Piece], state: State, band: int, settings: Duplicates) -> None:
    """Compare the documents whose keeper has been removed with that one's keeper."""
    orphans = _orphans(state)
    former = state.keeper[orphans]
    heirs = state.keeper[former]  # kept for their former keeper, and so perhaps for them
    # Exact duplicates have their keeper's text: the heir is as like them as like it, without a comparison.
    same = state.status[orphans] == EXACT
    state.similarity[orphans[same]] = state.similarity[former[same]]
    state.keeper[orphans[same]] = heirs[same]
    state.status[orphans[same]] = NEAR
    orphans, heirs = orphans[~same], heirs[~same]
    size = 1 << 16
    tasks = [
        (list(pieces), orphans[start : start + size], heirs[start : start + size], settings)
        for start in range(0, len(orphans), size)
    ]
    folders = work.run(f"again/{band:02d}", compare_again, tasks, Unseen())
    for folder, (_, documents, keepers, _) in zip(folders, tasks, strict=True):
        similarity = np.load(folder / "similarity.npy")
        alike = similarity >= settings.similarity
        state.keeper[documents] = np.where(alike, keepers, -1)
        state.similarity[documents] = np.where(alike, similarity, 0)
        state.status[documents[~alike]] = KEPT


# --- tasks -------------------------------------------------------------------------------------------------------


def _bounds(number: int, count: int) -> tuple[np.uint64, np.uint64]:
    """Return the first and the last key of range `number` of `count`: hashes are spread evenly over 64 bits."""
    return np.uint64((number << 64) // count), np.uint64(((number + 1 << 64) // count) - 1)


def _runs(keys: Keys, documents: Numbers) -> tuple[Numbers, Numbers]:
    """Return the documents that share their key with another, by key and number, and the run each belongs to."""
    order = np.argsort(keys, kind="stable")  # documents come in rising order and stay so within a key
    keys, documents = keys[order], documents[order]
    like_last = np.zeros(len(keys), dtype=bool)
    like_last[1:] = keys[1:] == keys[:-1]
    shared = like_last.copy()
    shared[:-1] |= like_last[1:]  # also the first of each run, which is like the next one only
    return documents[shared], np.cumsum(~like_last[shared]) - 1


def _gather(
    pieces: Sequence[Piece], slices: Sequence[tuple[NDArray[Any], ...]], alive: Path, first: int
) -> tuple[Numbers, list[Keys]]:
    """Join slices of the pieces, (place in the piece, keys...): the documents that are still in, and their keys."""
    living = np.load(alive, mmap_mode="r")
    documents: list[Numbers] = []
    keys: list[list[Keys]] = [[] for _ in slices[0][1:]]
    for piece, (places, *columns) in zip(pieces, slices, strict=True):
        numbers = places.astype(np.int64) + piece.first
        inside = living[numbers] & (numbers >= first)
        documents.append(numbers[inside])
        for joined, column in zip(keys, columns, strict=True):
            joined.append(column[inside])
    return np.concatenate(documents), [np.concatenate(joined) for joined in keys]


def _save(folder: Path, documents: Numbers, keepers: Numbers, similarity: NDArray[np.float32]) -> None:
    np.savez(folder / "found.npz", documents=documents, keepers=keepers, similarity=similarity)


def find_exact(
    folder: Path, examined: Path, pieces: list[Piece], alive: Path, number: int, count: int, first: int, held_out: int
) -> None:
    """Write the documents of a range of hashes whose normalised text an earlier one has."""
    low, high = _bounds(number, count)
    slices = []
    for place in range(len(pieces)):
        table = np.load(examined / f"{place:06d}" / "exact.npy", mmap_mode="r")
        part = slice(int(np.searchsorted(table[0], low)), int(np.searchsorted(table[0], high, side="right")))
        slices.append((np.array(table[2, part]), np.array(table[0, part]), np.array(table[1, part])))
    documents, (one, other) = _gather(pieces, slices, alive, first)
    order = np.lexsort((documents, other, one))  # both hashes together are the key
    documents, one, other = documents[order], one[order], other[order]
    # In this order the first of equal documents leads; each other one's leader is the last lead at or before it.
    leads = np.ones(len(documents), dtype=bool)
    leads[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    leader = documents[np.maximum.accumulate(np.where(leads, np.arange(len(documents)), 0))]
    removed = ~leads & (documents >= held_out)
    _save(folder, documents[removed], leader[removed], np.ones(int(removed.sum()), dtype=np.float32))


def find_near(
    folder: Path,
    examined: Path,
    pieces: list[Piece],
    alive: Path,
    band: int,
    number: int,
    count: int,
    first: int,
    held_out: int,
    settings: Duplicates,
) -> None:
    """Write the documents of a range of a band's keys that are like an earlier one, and how like they are."""
    low, high = _bounds(number, count)
    slices = []
    for place in range(len(pieces)):
        keys = np.load(examined / f"{place:06d}" / "bands.npy", mmap_mode="r")[band]
        order = np.load(examined / f"{place:06d}" / "order.npy", mmap_mode="r")[band]
        begin, end = int(np.searchsorted(keys, low)), int(np.searchsorted(keys, high, side="right"))
        slices.append((np.array(order[begin:end]), np.array(keys[begin:end])))
    documents, (joined,) = _gather(pieces, slices, alive, first)
    documents, runs = _runs(joined, documents)
    nothing = np.empty(0, np.int64)
    found = [(nothing, nothing, np.empty(0, np.float32))]
    texts = _Texts(pieces)
    for begin, end in _groups(runs, texts.lengths(documents)):
        found += _leaders(documents[begin:end], runs[begin:end], held_out, texts, settings)
    _save(folder, *(np.concatenate(column) for column in zip(*found, strict=True)))


Found = tuple[Numbers, Numbers, NDArray[np.float32]]


def _groups(runs: Numbers, lengths: Numbers) -> Iterator[tuple[int, int]]:
    """Cut the documents of runs into groups of about TEXT_BYTES, between runs unless one alone is larger.

    The parts of a run so large have leaders of their own, which later bands bring together.
    """
    ends = np.cumsum(lengths)
    begin = 0
    while begin < len(runs):
        reached = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, reached + TEXT_BYTES, side="right")), begin + 1)
        if end < len(runs) and runs[end] == runs[end - 1]:  # a run would be cut: it goes into the next group whole
            first = int(np.searchsorted(runs, runs[end]))
            end = first if first > begin else end
        yield begin, end
        begin = end


def _leaders(documents: Numbers, runs: Numbers, held_out: int, texts: _Texts, settings: Duplicates) -> Iterator[Found]:
    """Compare the first of each run with the others, and the first of those unlike it with the rest, and so on."""
    needed, places = np.unique(documents, return_inverse=True)
    hashes, offsets = texts.shingles(needed, settings)
    left = np.arange(len(documents))
    for _ in range(LEADERS):
        if not len(left):
            return
        own = runs[left]
        leads = np.concatenate([[True], own[1:] != own[:-1]])
        leader = left[np.maximum.accumulate(np.where(leads, np.arange(len(left)), 0))]
        pairs = ~leads & (documents[left] >= held_out)  # a leader is done with; a held-out document is never removed
        left, leader = left[pairs], leader[pairs]
        similarity = shingles.jaccard(hashes, offsets, places[left], places[leader])
        alike = similarity >= settings.similarity
        yield documents[left[alike]], documents[leader[alike]], similarity[alike]
        left = left[~alike]


def compare_again(
    folder: Path, pieces: list[Piece], documents: Numbers, keepers: Numbers, settings: Duplicates
) -> None:
    """Write how like some pairs of documents are."""
    np.save(folder / "similarity.npy", _Texts(pieces).compare(documents, keepers, settings))


class _Texts:
    """Documents by number, and their exact similarity."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces
        self.firsts = np.array([piece.first for piece in pieces], dtype=np.int64)

    def compare(self, left: Numbers, right: Numbers, settings: Duplicates) -> NDArray[np.float32]:
        """Return the Jaccard similarity of pairs of documents, TEXT_BYTES of text at a time."""
        found = np.empty(len(left), dtype=np.float32)
        for begin, end in _stretches(np.cumsum(self.lengths(left) + self.lengths(right)) // TEXT_BYTES):
            needed, places = np.unique(np.concatenate([left[begin:end], right[begin:end]]), return_inverse=True)
            hashes, offsets = self.shingles(needed, settings)
            found[begin:end] = shingles.jaccard(hashes, offsets, places[: end - begin], places[end - begin :])
        return found

    def shingles(self, documents: Numbers, settings: Duplicates) -> tuple[Keys, Numbers]:
        """Return the shingles of documents, whose numbers rise, and where each one's begin."""
        return shingles.shingles([shingles.normalised(text) for text in self._load(documents)], settings.shingle_words)

    def lengths(self, documents: Numbers) -> Numbers:
        """Return how many bytes of text documents have."""
        lengths = np.zeros(len(documents), dtype=np.int64)
        owners = np.searchsorted(self.firsts, documents, side="right") - 1
        for number in np.unique(owners).tolist():
            chosen = owners == number
            ends, place = self.pieces[number].ends(), documents[chosen] - self.firsts[number]
            lengths[chosen] = ends[place + 1] - ends[place]
        return lengths

    def _load(self, documents: Numbers) -> list[str]:
        """Return the texts of documents, whose numbers rise."""
        owners = np.searchsorted(self.firsts, documents, side="right") - 1
        found: list[str] = []
        for begin, end in _stretches(owners):
            piece = self.pieces[int(owners[begin])]
            found += piece.texts(documents[begin:end] - piece.first)
        return found


def _stretches(values: Numbers) -> list[tuple[int, int]]:
    """Return (begin, end) of every stretch of equal values."""
    if not len(values):
        return []
    cuts = np.flatnonzero(values[1:] != values[:-1]) + 1
    return list(zip([0, *cuts.tolist()], [*cuts.tolist(), len(values)], strict=True))
