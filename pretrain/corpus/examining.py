"""Step examine: what is known of every document of a piece, and keys under which its duplicates are found.

status.npy    uint8: one of STATUS
words.npy     uint32: words of the text
exact.npy     uint64 (3, n): two hashes of the normalised text and the document's number in the piece, by hash
bands.npy     uint64 (bands, n): the keys of each MinHash band, rising
order.npy     uint32 (bands, n): the number in the piece of each key's document
languages.npy uint8: which of `languages` in examined.json; absent unless asked for
examined.json counts of personal data and words by host; the languages met
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamatrain.errors import UserError

from . import personal, shingles
from .config import Duplicates, Languages
from .pieces import Numbers, Piece

STATUS = ("kept", "empty", "short", "language", "site", "exact", "near")
KEPT, EMPTY, SHORT, LANGUAGE, SITE, EXACT, NEAR = range(len(STATUS))
WHY = {  # what became of a row, in words
    "kept": "kept",
    "bad_rows": "bad rows",
    "empty": "empty",
    "short": "too short",
    "language": "other language",
    "site": "site with personal data",
    "exact": "exact duplicate",
    "near": "near duplicate",
}
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Examination:
    """What is asked of every document."""

    min_characters: int
    languages: Languages
    duplicates: Duplicates
    personal: bool


def examine(folder: Path, piece: Piece, asked: Examination) -> None:
    """Write the arrays above for a piece."""
    size = piece.documents
    status, words = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.uint32)
    exact = np.zeros((3, size), dtype=np.uint64)
    duplicates = asked.duplicates
    bands = np.zeros((duplicates.bands, size), dtype=np.uint64) if duplicates.near else None
    languages = _Languages(size) if asked.languages.identify else None
    sites = _Sites(piece) if asked.personal and piece.has("hosts") else None
    for numbers, texts in piece.batches():
        normalised = [shingles.normalised(text) for text in texts]
        words[numbers] = [len(found) for found in normalised]
        # 128 bits: among thousands of millions of documents 64 would collide by chance.
        digests = b"".join(hashlib.blake2b(" ".join(f).encode(), digest_size=16).digest() for f in normalised)
        exact[:2, numbers] = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2).T
        short = np.array([len(text) for text in texts]) < asked.min_characters
        status[numbers] = np.where(words[numbers] == 0, EMPTY, np.where(short, SHORT, KEPT))
        if sites is not None:
            sites.count(numbers, texts, words)  # short documents, too: a site is judged by all it shows
        if languages is not None:
            unwanted = languages.detect(numbers, texts, asked.languages)
            status[numbers] = np.where(unwanted & (status[numbers] == KEPT), LANGUAGE, status[numbers])
        if bands is not None:
            hashes, offsets = shingles.shingles(normalised, duplicates.shingle_words)
            bands[:, numbers] = shingles.band_keys(hashes, offsets, duplicates.bands, duplicates.rows).T
    np.save(folder / "status.npy", status)
    np.save(folder / "words.npy", words)
    if languages is not None:
        np.save(folder / "languages.npy", languages.numbers)
    _save_keys(folder, status == KEPT, exact, bands)
    content = {"sites": sites.named() if sites else {}, "languages": languages.names if languages else []}
    (folder / "examined.json").write_text(json.dumps(content))


class _Sites:
    """What the documents of each host hold: documents, words, and the kinds of personal data."""

    def __init__(self, piece: Piece) -> None:
        self.hosts, self.names = piece.array("hosts").tolist(), piece.facts["hosts"]
        self.counts: dict[int, list[int]] = {}

    def count(self, numbers: Numbers, texts: Sequence[str], words: NDArray[np.uint32]) -> None:
        for number, text in zip(numbers.tolist(), texts, strict=True):
            if self.hosts[number] >= 0:
                site = self.counts.setdefault(self.hosts[number], [0] * (2 + len(personal.KINDS)))
                for place, value in enumerate((1, int(words[number]), *personal.count(text))):
                    site[place] += value

    def named(self) -> dict[str, list[int]]:
        return {self.names[number]: counts for number, counts in self.counts.items()}


class _Languages:
    """The language of each document, as a number of a name."""

    def __init__(self, size: int) -> None:
        self.numbers, self.names = np.zeros(size, dtype=np.uint8), [UNKNOWN]

    def detect(self, numbers: Numbers, texts: Sequence[str], asked: Languages) -> NDArray[np.bool_]:
        """Detect the languages of some documents; return which are not to be kept."""
        for number, text in zip(numbers.tolist(), texts, strict=True):
            name = identify(text, asked.min_probability)
            if name not in self.names:
                self.names.append(name)
            self.numbers[number] = self.names.index(name)
        kept = np.array([not asked.keep or name in asked.keep for name in self.names])
        return ~kept[self.numbers[numbers]]


def _save_keys(
    folder: Path, kept: NDArray[np.bool_], exact: NDArray[np.uint64], bands: NDArray[np.uint64] | None
) -> None:
    """Write the keys sorted: those of all pieces are then merged without holding them."""
    left = np.flatnonzero(kept)
    order = left[np.argsort(exact[0, left], kind="stable")]
    exact[2] = np.arange(exact.shape[1], dtype=np.uint64)
    np.save(folder / "exact.npy", exact[:, order])
    if bands is not None:
        keys = bands[:, left]
        places = np.argsort(keys, axis=1, kind="stable")
        np.save(folder / "bands.npy", np.take_along_axis(keys, places, axis=1))
        np.save(folder / "order.npy", left[places].astype(np.uint32))


# --- languages ---------------------------------------------------------------------------------------------------


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise UserError(
            "languages.identify=true: need py3langid (pip install 'llamatrain[language]'), which is not installed"
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def identify(text: str, min_probability: float) -> str:
    """Return the language of a text (ISO 639-1), or `unknown` where the identifier is less confident than asked."""
    language, probability = _identifier().classify(text[:2000])  # enough to tell, and the time grows with the length
    return str(language) if probability >= min_probability else UNKNOWN
