"""Spans that samples and a corpus share: the samples' 10-grams in memory, the corpus read once past them.

`reach[i]` is how long the longest span is that begins at token i of all samples joined: what any length asks for
follows from it, as a span counts for every length below its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamatrain.data.order import GOLDEN
from llamatrain.data.shards import Source, TokenStream

from .config import GRAM

STRETCH = 1 << 24  # tokens of the corpus that a task goes over
BLOCK = 1 << 20  # tokens of the corpus in memory at a time
PAIRS = 1 << 20  # hits followed at a time
_FACTOR = np.uint64(GOLDEN)
_FILTER_BITS = np.uint64(22)

Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Reach = NDArray[np.int32]
_OUTSIDE = -1  # no token: after a sample's end, at a document's end


def gram_hashes(tokens: NDArray[np.generic]) -> Hashes:
    """Return the hash of the GRAM tokens that begin at each place; fewer than GRAM tokens have none."""
    spread = (tokens.astype(np.uint64) + np.uint64(1)) * _FACTOR  # + 1: else token 0 would leave no trace
    spread ^= spread >> np.uint64(29)
    count = max(0, len(tokens) - GRAM + 1)
    # Horner's scheme over all places at once: a pass over the array for each of the GRAM tokens.
    result = spread[:count].copy()
    for place in range(1, GRAM):
        result *= _FACTOR
        result += spread[place : place + count]
    return result ^ (result >> np.uint64(32))


@dataclass
class Index:
    """The samples' tokens, an _OUTSIDE after each, and where each 10-gram stands in them."""

    tokens: Numbers
    starts: Numbers  # of the samples, and the end
    hashes: Hashes  # rising, one for each place
    places: Numbers

    @classmethod
    def of(cls, samples: Sequence[Sequence[int]]) -> Index:
        """Index samples given as token ids."""
        lengths = np.array([len(sample) + 1 for sample in samples], dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        tokens = np.full(int(starts[-1]), _OUTSIDE, dtype=np.int64)
        for start, sample in zip(starts.tolist(), samples, strict=False):
            tokens[start : start + len(sample)] = sample
        hashes = gram_hashes(tokens)
        # A 10-gram counts where it lies within one sample: as many ends stand before its last token as before its first.
        ends_before = np.concatenate([[0], np.cumsum(tokens == _OUTSIDE)])
        within = ends_before[GRAM : GRAM + len(hashes)] == ends_before[: len(hashes)]
        places = np.flatnonzero(within)
        order = np.argsort(hashes[places], kind="stable")
        return cls(tokens, starts, hashes[places][order], places[order])

    def save(self, path: Path) -> None:
        """Write the index for worker processes."""
        np.savez(path, tokens=self.tokens, starts=self.starts, hashes=self.hashes, places=self.places)

    @cached_property
    def left(self) -> Numbers:
        """How many tokens of its sample there are from each place on: no span reaches further."""
        ends, sizes = self.starts[1:] - 1, self.starts[1:] - self.starts[:-1]
        return np.repeat(ends, sizes) - np.arange(len(self.tokens))

    def filter(self) -> NDArray[np.bool_]:
        """Return a table that is true where the upper bits of a hash are those of one of the samples'."""
        table = np.zeros(1 << int(_FILTER_BITS), dtype=bool)
        table[self.hashes >> (np.uint64(64) - _FILTER_BITS)] = True
        return table

    def contaminated(self, reach: Reach, length: int) -> NDArray[np.float64]:
        """Return the share of each sample's tokens in spans longer than `length`."""
        covers = np.where(reach > length, reach, 0)
        begins = np.flatnonzero(covers)
        # Spans overlap: one more is open where one begins, one fewer where one ends, and a token in any of them counts.
        change = np.zeros(len(self.tokens) + 1, dtype=np.int64)
        change[begins] += 1
        np.subtract.at(change, begins + covers[begins], 1)  # several may end at one place, which `-=` would count once
        inside = np.cumsum(change[:-1]) > 0
        sums = np.concatenate([[0], np.cumsum(inside)])
        sizes = self.starts[1:] - self.starts[:-1] - 1
        shares: NDArray[np.float64] = (sums[self.starts[1:]] - sums[self.starts[:-1]]) / np.maximum(sizes, 1)
        return shares


@lru_cache(maxsize=1)
def _load(path: Path) -> tuple[Index, NDArray[np.bool_]]:
    with np.load(path) as file:
        index = Index(**{name: file[name] for name in ("tokens", "starts", "hashes", "places")})
    return index, index.filter()


def match_stretch(
    folder: Path, index_path: Path, part: Path, source: Source, begin: int, dtype: str, bos: int, budget: int
) -> None:
    """Write how far the spans reach that the samples share with a stretch of a source."""
    index, table = _load(index_path)
    stream = TokenStream(part, source, dtype)
    end = min(begin + STRETCH, len(stream))
    reach = np.zeros(len(index.tokens), dtype=np.int32)
    longest = int((index.starts[1:] - index.starts[:-1]).max(initial=0)) + GRAM
    for start in range(begin, end, BLOCK):
        # Spans that begin in this block go on for as long as the longest sample.
        tokens = stream.read(start, BLOCK + longest).astype(np.int64)
        tokens[tokens == bos] = _OUTSIDE - 1  # another value than a sample's end: the two must never agree
        match(index, table, tokens, min(BLOCK, end - start), reach, budget)
    places = np.flatnonzero(reach)  # few of them: there is one such file for each stretch
    np.savez(folder / "reach.npz", places=places, reach=reach[places])


def match(index: Index, table: NDArray[np.bool_], tokens: Numbers, starts: int, reach: Reach, budget: int) -> None:
    """Raise `reach` by the spans that begin at the first `starts` of some tokens of the corpus."""
    hashes = gram_hashes(tokens[: starts + GRAM - 1])
    # The table, a few MB, answers for almost every place of the corpus; the search is for what passes it.
    hits = np.flatnonzero(table[hashes >> (np.uint64(64) - _FILTER_BITS)])
    low = np.searchsorted(index.hashes, hashes[hits], side="left")
    counts = np.searchsorted(index.hashes, hashes[hits], side="right") - low
    hits, low, counts = hits[counts > 0], low[counts > 0], counts[counts > 0]
    # Every hit is paired with all `counts` places of its 10-gram in the samples, a part of the pairs at a time.
    ends = np.cumsum(counts)
    for first, last in _parts(ends):
        some = slice(first, last)
        corpus = np.repeat(hits[some], counts[some])
        pairs_before = ends[some] - counts[some] - (ends[first] - counts[first])  # of each hit, in this part
        nth = np.arange(len(corpus)) - np.repeat(pairs_before, counts[some])  # 0, 1, ... among its hit's pairs
        sample = index.places[np.repeat(low[some], counts[some]) + nth]
        # What already reaches to its sample's end cannot reach further.
        open_ended = reach[sample] < index.left[sample]
        _follow(index, tokens, corpus[open_ended], sample[open_ended], reach, budget)


def _parts(ends: Numbers) -> list[tuple[int, int]]:
    """Cut the hits into parts of about PAIRS pairs."""
    if not len(ends):
        return []
    cuts = np.searchsorted(ends, np.arange(PAIRS, int(ends[-1]), PAIRS))
    edges = np.unique(np.concatenate([[0], cuts, [len(ends)]])).tolist()
    return list(pairwise(edges))


def _follow(index: Index, tokens: Numbers, corpus: Numbers, sample: Numbers, reach: Reach, budget: int) -> None:
    """Follow pairs of places, in the corpus and in the samples, as long as the tokens agree within the budget."""
    padded = np.concatenate([tokens, [_OUTSIDE - 1]])
    agree = np.ones(len(corpus), dtype=bool)  # equal hashes may be those of other tokens
    for place in range(GRAM):
        agree &= padded[np.minimum(corpus + place, len(tokens))] == index.tokens[sample + place]
    corpus, sample = corpus[agree], sample[agree]
    found = np.full(len(corpus), GRAM, dtype=np.int32)
    misses = np.zeros(len(corpus), dtype=np.int32)
    active = np.arange(len(corpus))
    place = GRAM
    while len(active):
        ours = padded[np.minimum(corpus[active] + place, len(tokens))]
        theirs = index.tokens[np.minimum(sample[active] + place, len(index.tokens) - 1)]
        same = ours == theirs
        place += 1
        found[active[same]] = place  # a span ends with a token that agrees: misses after it do not count
        misses[active[~same]] += 1
        active = active[(misses[active] <= budget) & (ours >= 0) & (theirs >= 0)]
    np.maximum.at(reach, sample, found)
