"""Step tokenize: the documents that are left, as token ids; step shards: those of a source one after the other.

    tokens         the ids of a piece's documents, BOS and EOS around each (uint16 or uint32)
    lengths.npy    int64: how many each has
    counts.json    words and bytes of their text, and what the card counts

SentencePiece's BPE never merges across a space where no piece of the vocabulary has one after another character, nor
across a line break where none holds one. Then a text's ids are its words' ids one after the other, and a word that was
met before need not be encoded again, which is some ten times as fast. `WordEncoder` asks the model whether that holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llamatrain.data import shards
from llamatrain.tokenizer import SPACE, Tokenizer

from . import card
from .card import Sampled
from .pieces import Piece

KNOWN_WORDS = 200_000  # whose ids a process remembers
BLOCK = 1 << 22  # tokens a shard is copied by


_UNIT = re.compile(r"\n[^ \n]*| +[^ \n]*")


class WordEncoder(dict[str, bytes]):
    """Token ids by word, as bytes of `dtype`. A key is a word after a space, or a line break and what follows it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.dtype = shards.token_dtype(tokenizer.vocab_size)
        self.by_word = tokenizer.words_are_separate()
        self.space = tokenizer.piece_id(SPACE)
        self.bos, self.eos = (np.array([i], self.dtype).tobytes() for i in (tokenizer.bos_id, tokenizer.eos_id))

    def __missing__(self, key: str) -> bytes:
        """Encode a word that was not met before. SentencePiece puts a space before a text; a line break needs none."""
        ids = self.tokenizer.encode(key) if key else [self.space]
        value = np.array(ids[1:] if key.startswith("\n") else ids, dtype=self.dtype).tobytes()
        if len(self) >= KNOWN_WORDS:  # all of it: the frequent words are back within a few documents
            self.clear()
        self[key] = value
        return value

    def encode(self, texts: Sequence[str]) -> tuple[bytes, list[int]]:
        """Return the ids of texts, BOS and EOS around each, one after the other, and how many each has."""
        found: list[bytes] = []
        for text in texts:
            if self.by_word and SPACE not in text:  # SentencePiece's own mark of a space in a text is no space
                found.append(b"".join(map(self.__getitem__, _keys(text))))
            else:
                found.append(self._whole(text))
        size = self.dtype.itemsize
        joined = b"".join(part for ids in found for part in (self.bos, ids, self.eos))
        return joined, [len(ids) // size + 2 for ids in found]

    def _whole(self, text: str) -> bytes:
        return np.array(self.tokenizer.encode(text), self.dtype).tobytes()


def _keys(text: str) -> list[str]:
    """Cut a text into the keys of WordEncoder."""
    if not text:
        return []
    if "\n" not in text and "  " not in text and text[0] != " " and text[-1] != " ":
        return text.split(" ")  # by far the most
    # SentencePiece puts a space before the text.
    return [unit if unit[0] == "\n" else unit[1:] for unit in _UNIT.findall(" " + text)]


@lru_cache(maxsize=1)
def _encoder(path: str) -> WordEncoder:
    return WordEncoder(Tokenizer(path))


def tokenize(folder: Path, piece: Piece, kept: Path, path: str, sampled: Sampled) -> None:
    """Write the token ids of a piece's documents whose status in the file `kept` is 0."""
    encoder = _encoder(path)
    chosen = np.load(kept, mmap_mode="r")[piece.first : piece.first + piece.documents] == 0
    lengths: list[int] = []
    described = card.Counts()
    text_bytes = 0
    with (folder / "tokens").open("wb") as file:
        for numbers, texts in piece.batches(chosen):
            ids, some = encoder.encode(texts)
            file.write(ids)
            lengths += some
            text_bytes += sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
            if not piece.held_out:
                card.count(described, piece.first + numbers, texts, sampled)
    np.save(folder / "lengths.npy", np.array(lengths, dtype=np.int64))
    (folder / "counts.json").write_text(json.dumps({"text_bytes": text_bytes, "card": described.content()}))


# --- shards ------------------------------------------------------------------------------------------------------

Span = tuple[Path, int, int, int, int]  # a piece's tokens: first and last document, first and last token


def plan_shards(tokenized: Sequence[Path], shard_tokens: int) -> Iterator[list[Span]]:
    """Yield the spans of each shard of a source: as many documents as fit into `shard_tokens`, one at least."""
    shard: list[Span] = []
    held = 0
    for folder in tokenized:
        ends = np.concatenate([[0], np.cumsum(np.load(folder / "lengths.npy"))])
        first, count = 0, len(ends) - 1
        while first < count:
            last = int(np.searchsorted(ends, ends[first] + shard_tokens - held, side="right")) - 1
            last = max(last, first + (not held))  # a document longer than a shard has one of its own
            if last > first:
                shard.append((folder, first, last, int(ends[first]), int(ends[last])))
                held += int(ends[last] - ends[first])
            first = last
            if first < count:
                yield shard
                shard, held = [], 0
    if shard:
        yield shard


def write_shard(folder: Path, target: Path, number: int, spans: list[Span], dtype: str) -> None:
    """Write one shard of a source into `target`, and its entry for the index."""
    entry = shards.write_shard_blocks(target, number, _blocks(spans, np.dtype(dtype)))
    (folder / "entry.json").write_text(json.dumps(entry))


def _blocks(spans: Sequence[Span], dtype: np.dtype[np.uint16]) -> Iterator[shards.Block]:
    for folder, first, last, begin, end in spans:
        yield np.empty(0, dtype), np.load(folder / "lengths.npy")[first:last]
        for start in range(begin, end, BLOCK):
            block: NDArray[np.uint16] = np.fromfile(
                folder / "tokens", dtype, min(BLOCK, end - start), offset=start * dtype.itemsize
            )
            yield block, np.empty(0, np.int64)
