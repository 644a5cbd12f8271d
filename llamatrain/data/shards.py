"""A tokenized corpus on disk: the program `corpus` writes it, training maps it into memory.

    train/  eval/
      manifest.json            what was tokenized and how, and the sources with their shares; written last
      <source>/shards.jsonl    one line per shard: its name, tokens, documents, and its files' sizes and sha256
      <source>/shards.bin      int64: the token at which each shard begins, and the end of the last
      <source>/00000000.tokens     BOS document EOS BOS document EOS ...   (uint16, or uint32 for large vocabularies)
      <source>/00000000.documents  int64: where in the shard each document begins, and its end

Opening a corpus reads manifest.json and maps shards.bin, so it takes the same time for any number of shards. A shard is
opened when its first token is asked for and refused if it was cut; `verify` finds altered ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
from numpy.typing import NDArray

from llamatrain import atomic
from llamatrain.errors import UserError, missing
from llamatrain.text_files import DamagedFileError, read_json, read_lines
from llamatrain.tokenizer import Tokenizer

MANIFEST, SHARDS, STARTS = "manifest.json", "shards.jsonl", "shards.bin"
DTYPES = ("uint16", "uint32")  # of the tokens
OPEN_SHARDS = 256  # mapped at a time, far below what a process may hold open
ANEW = "rebuild it with `llamatrain corpus`"


class Hashed(TypedDict):
    """What an index knows of a shard's file."""

    bytes: int
    sha256: str


class Entry(TypedDict):
    """A line of shards.jsonl."""

    name: str
    tokens: int
    documents: int
    files: dict[str, Hashed]


@dataclass
class Source:
    """One source of a corpus part; `share` is its part of the training sequences, all sources' together being 1."""

    name: str
    share: float
    licence: str
    tokens: int
    documents: int
    words: int
    text_bytes: int
    shards: int
    index: str  # sha256 of shards.jsonl, which holds those of the shards


@dataclass
class Manifest:
    """What a corpus part holds; `fingerprint` is one hash of all of it."""

    dtype: str
    vocab_size: int
    bos_id: int
    eos_id: int
    tokenizer: str
    sources: list[Source]

    @classmethod
    def of(cls, tokenizer: Tokenizer, sources: list[Source]) -> Manifest:
        """Return the manifest of sources tokenized by `tokenizer`."""
        return cls(
            dtype=token_dtype(tokenizer.vocab_size).name,
            vocab_size=tokenizer.vocab_size,
            bos_id=tokenizer.bos_id,
            eos_id=tokenizer.eos_id,
            tokenizer=tokenizer.fingerprint,
            sources=sources,
        )

    @property
    def tokens(self) -> int:
        return sum(source.tokens for source in self.sources)

    @property
    def text_bytes(self) -> int:
        return sum(source.text_bytes for source in self.sources)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


# --- writing -----------------------------------------------------------------------------------------------------


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest unsigned integers that hold a vocabulary."""
    return np.dtype(DTYPES[0] if vocab_size <= 1 << 16 else DTYPES[1])


Block = tuple[NDArray[Any], NDArray[np.int64]]  # token ids of some documents, BOS and EOS in them; each one's length


def write_shard(folder: Path, number: int, documents: Iterable[Sequence[int]], tokenizer: Tokenizer) -> dict[str, Any]:
    """Write one shard of documents' token ids, BOS and EOS put around each; return its entry for `write_index`.

    The files appear under their names when they are whole. Memory holds one document's tokens at a time.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    blocks = (
        (np.array([tokenizer.bos_id, *ids, tokenizer.eos_id], dtype=dtype), np.array([len(ids) + 2]))
        for ids in documents
    )
    return write_shard_blocks(folder, number, blocks)


def write_shard_blocks(folder: Path, number: int, blocks: Iterable[Block]) -> dict[str, Any]:
    """Write one shard of documents that already have their BOS and EOS; return its entry for `write_index`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{number:08d}"
    end = documents = 0
    with (
        atomic.replacing(folder / f"{name}.tokens") as tokens_file,
        atomic.replacing(folder / f"{name}.documents") as documents_file,
    ):
        files = {"tokens": _Hashed(tokens_file), "documents": _Hashed(documents_file)}
        for tokens, lengths in blocks:
            ends = end + np.cumsum(lengths, dtype=np.int64)
            files["tokens"].write(tokens)
            files["documents"].write(ends - lengths)  # where each begins; the end of the last follows below
            documents += len(lengths)
            end += len(tokens)
        files["documents"].write(np.array([end], dtype=np.int64))
    entries = {kind: file.entry() for kind, file in files.items()}
    return {"name": name, "tokens": end, "documents": documents, "files": entries}


def write_index(folder: Path, entries: Sequence[dict[str, Any]]) -> str:
    """Write shards.jsonl and shards.bin of a source from its shards' entries in order; return shards.jsonl's sha256."""
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    starts = np.cumsum([0, *(entry["tokens"] for entry in entries)], dtype=np.int64)
    atomic.write_bytes(folder / STARTS, starts.tobytes())
    atomic.write_text(folder / SHARDS, text)
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Publish a corpus part; until then its folder holds none."""
    atomic.write_json(folder / MANIFEST, asdict(manifest))


class _Hashed:
    """A file being written, its size and its sha256."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes, self.digest = file, 0, hashlib.sha256()

    def write(self, array: NDArray[Any]) -> None:
        content = array.tobytes()
        self.file.write(content)
        self.digest.update(content)
        self.bytes += len(content)

    def entry(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}


# --- reading -----------------------------------------------------------------------------------------------------


def read_manifest(folder: str | Path, tokenizer: Tokenizer | None = None) -> Manifest:
    """Return a corpus part's manifest after checking that `tokenizer`, where given, made it."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise missing(path, made_by="corpus")
    manifest = read_json(path, Manifest, ANEW)
    if manifest.dtype not in DTYPES or any(min(s.tokens, s.documents, s.shards) < 0 for s in manifest.sources):
        raise DamagedFileError(f"{path} is damaged: need a dtype of {', '.join(DTYPES)} and no negative count; {ANEW}")
    if tokenizer is not None and manifest.tokenizer != tokenizer.fingerprint:
        raise UserError(
            f"{folder} was made with another tokenizer (sha256 {manifest.tokenizer[:12]}) than {tokenizer.path} "
            f"(sha256 {tokenizer.fingerprint[:12]}), so its ids differ: need one made by `llamatrain corpus "
            f"tokenizer={tokenizer.path} ...`"
        )
    return manifest


class TokenStream:
    """All tokens of a source as one sequence over its shards, mapped into memory as they are asked for."""

    def __init__(self, folder: Path, source: Source, dtype: str) -> None:
        self.folder, self.source, self.dtype = folder / source.name, source, np.dtype(dtype)
        path = self.folder / STARTS
        if not path.is_file():
            raise missing(path, made_by="corpus")
        if (found := path.stat().st_size) != 8 * (source.shards + 1):
            raise UserError(f"{path} has {found} bytes, {source.shards} shards need {8 * (source.shards + 1)}; {ANEW}")
        self.starts = np.memmap(path, dtype=np.int64, mode="r")
        self._shard = lru_cache(OPEN_SHARDS)(self._open)

    def __len__(self) -> int:
        return self.source.tokens

    def read(self, start: int, length: int) -> NDArray[Any]:
        """Return tokens `start` to `start + length`, fewer at the end."""
        stop = min(start + length, len(self))
        # "right": of shards that begin at the same token, as empty ones do, the last, which holds it.
        shard = int(np.searchsorted(self.starts, start, side="right")) - 1
        parts = []
        while start < stop:
            begin, end = int(self.starts[shard]), int(self.starts[shard + 1])
            if end > start:  # a shard may be empty
                parts.append(self._shard(shard)[start - begin : min(stop, end) - begin])
                start = min(stop, end)
            shard += 1
        if len(parts) == 1:  # nearly always: a view of the mapped file, nothing is copied
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, dtype=self.dtype)

    def _open(self, shard: int) -> NDArray[Any]:
        path = self.folder / f"{shard:08d}.tokens"
        needed = int(self.starts[shard + 1] - self.starts[shard]) * self.dtype.itemsize
        _check_size(path, needed)
        return np.memmap(path, dtype=self.dtype, mode="r")


def _check_size(path: Path, needed: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != needed:
        state = "is missing" if found is None else f"has {found} bytes"
        raise UserError(f"{path} {state}, its index says {needed} bytes; {ANEW}")


def shard_entries(folder: Path, source: Source) -> Iterator[Entry]:
    """Yield the entries of shards.jsonl after checking its hash."""
    path = folder / source.name / SHARDS
    if not path.is_file():
        raise missing(path, made_by="corpus")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != source.index:
        raise UserError(f"{path} was altered: its sha256 is not the one in {folder / MANIFEST}; {ANEW}")
    yield from read_lines(path, Entry, ANEW)


def verify(folder: Path, contents: bool = True) -> Iterator[tuple[Path, str]]:
    """Yield every file of a corpus part with what is wrong with it, or ''; without `contents` shards by size alone."""
    manifest = read_manifest(folder)
    for source in manifest.sources:
        entries = list(shard_entries(folder, source))
        starts = np.cumsum([0, *(entry["tokens"] for entry in entries)], dtype=np.int64)
        path = folder / source.name / STARTS
        same = path.is_file() and path.read_bytes() == starts.tobytes()
        yield path, "" if same else "does not agree with shards.jsonl"
        for entry in entries:
            for kind, needed in entry["files"].items():
                path = folder / source.name / f"{entry['name']}.{kind}"
                yield path, _fault(path, needed, contents)


def _fault(path: Path, needed: Hashed, contents: bool) -> str:
    if not path.is_file():
        return "is missing"
    if (found := path.stat().st_size) != needed["bytes"]:
        return f"has {found} bytes, its index says {needed['bytes']}"
    if not contents:
        return ""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if digest == needed["sha256"] else "was altered: its sha256 is not the one in its index"
