"""Word n-grams (shingles) of texts: MinHash bands to find likely pairs, exact Jaccard similarity to judge them.

A shingle is `size` neighbouring words of the normalised text, and stands as a 64-bit hash. A text of fewer words has
one shingle: all its words. Arrays over the shingles of several documents are flat, with the documents' ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from llamatrain.data.order import GOLDEN, scramble

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]

SEED = 2307
_KNOWN_WORDS = 200_000  # whose hashes a process remembers
_LOW = np.uint64(48)  # bits of a shingle's hash that are compared within a pair
PAIRS = 1 << 15  # compared at a time: their number fits above those bits


def normalised(text: str) -> list[str]:
    """Return the words that duplicates share: lower case, any white space between them."""
    return text.lower().split()


class _WordHashes(dict[str, int]):
    """word -> 64-bit hash, remembered."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _KNOWN_WORDS:
            self.clear()
        value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = value
        return value


_hashes = _WordHashes()


def shingles(documents: Sequence[Sequence[str]], size: int) -> tuple[Hashes, Numbers]:
    """Return the shingles of documents given by their words, flat, and where each document's begin, and their end."""
    lengths = np.fromiter((len(words) for words in documents), dtype=np.int64, count=len(documents))
    padded = np.maximum(lengths, size)
    hashes = np.zeros(int(padded.sum()), dtype=np.uint64)
    starts = np.cumsum(padded) - padded
    flat = np.fromiter(map(_hashes.__getitem__, chain.from_iterable(documents)), np.uint64, int(lengths.sum()))
    if (lengths == padded).all():
        hashes = flat
    else:  # behind the words of a short document its place is filled up with 0
        shift = starts - (np.cumsum(lengths) - lengths)
        hashes[np.repeat(shift, lengths) + np.arange(len(flat))] = flat
    counts = padded - size + 1
    offsets = np.concatenate([[0], np.cumsum(counts)])
    # Where each shingle's first word is: in its document, none begins among the last size - 1 words.
    at = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
    result = hashes[at]
    for word in range(1, size):
        result = result * _FACTOR + hashes[at + word]
    return scramble(result), offsets


_FACTOR = np.uint64(GOLDEN)


def band_keys(hashes: Hashes, offsets: Numbers, bands: int, rows: int) -> Hashes:
    """Return each document's key in every band, (documents, bands): documents alike to J agree in one with J^rows."""
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), bands * rows, SEED)
    size = (len(offsets) - 1) * bands * rows
    flat = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint32, size)  # half the time of np.array
    values = flat.astype(np.uint64).reshape(-1, bands, rows)
    keys = values[:, :, 0] + np.arange(bands, dtype=np.uint64) * _FACTOR  # equal values of two bands: different keys
    for row in range(1, rows):
        keys = keys * _FACTOR + values[:, :, row]
    return scramble(keys)


def found_with(similarity: float, bands: int, rows: int) -> float:
    """Return the probability that two texts of this Jaccard similarity share a band."""
    return float(1 - (1 - similarity**rows) ** bands)


def jaccard(hashes: Hashes, offsets: Numbers, left: Numbers, right: Numbers) -> NDArray[np.float32]:
    """Return the exact Jaccard similarity of the documents `left[i]` and `right[i]`: shared shingles over all."""
    found = np.empty(len(left), dtype=np.float32)
    for start in range(0, len(left), PAIRS):
        part = slice(start, start + PAIRS)
        found[part] = _jaccard(hashes, offsets, left[part], right[part])
    return found


def _jaccard(hashes: Hashes, offsets: Numbers, left: Numbers, right: Numbers) -> NDArray[np.float64]:
    sets = [_sets(hashes, offsets, side) for side in (left, right)]
    sizes = sum(np.bincount(keys >> _LOW, minlength=len(left)) for keys in sets)
    # A key holds pair and shingle, and each side has it once: what is there twice, both sides share.
    keys = np.sort(np.concatenate(sets))
    twice = keys[1:][keys[1:] == keys[:-1]]
    shared = np.bincount(twice >> _LOW, minlength=len(left))
    similarity: NDArray[np.float64] = shared / (sizes - shared)
    return similarity


def _sets(hashes: Hashes, offsets: Numbers, documents: Numbers) -> Hashes:
    """Return the distinct shingles of each document, the document's place above them."""
    counts = offsets[documents + 1] - offsets[documents]
    ends = np.cumsum(counts)
    at = np.repeat(offsets[documents] - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)
    places = np.repeat(np.arange(len(documents), dtype=np.uint64), counts)
    keys = np.sort((hashes[at] & np.uint64((1 << 48) - 1)) | (places << _LOW))
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
