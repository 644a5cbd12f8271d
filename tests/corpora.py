"""Corpora for tests: what the program `corpus` writes, from a file of documents, in this process and as they stand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from llamatrain.data import shards
from llamatrain.data.kinds import DocumentRow
from llamatrain.data.rows import read_rows
from llamatrain.tokenizer import Tokenizer


def write_corpus(
    folder: Path, sources: Sequence[str] | Mapping[str, str], tokenizer: Tokenizer, shard_documents: int | None = None
) -> shards.Manifest:
    """Write a corpus part of one source, or of several of equal shares by name; shards of so many documents."""
    named = {name: [path] for name, path in sources.items()} if isinstance(sources, Mapping) else None
    made = []
    for name, paths in (named or {"documents": list(sources)}).items():
        texts = [row["text"] for path in paths for row in read_rows(path, DocumentRow)]
        size = shard_documents or len(texts)
        entries = [
            shards.write_shard(folder / name, number, map(tokenizer.encode, texts[start : start + size]), tokenizer)
            for number, start in enumerate(range(0, len(texts), size))
        ]
        source = shards.Source(
            name=name,
            share=1 / len(named or [1]),
            licence="",
            tokens=sum(entry["tokens"] for entry in entries),
            documents=len(texts),
            words=sum(len(text.split()) for text in texts),
            text_bytes=sum(len(text.encode()) for text in texts),
            shards=len(entries),
            index=shards.write_index(folder / name, entries),
        )
        made.append(source)
    manifest = shards.Manifest.of(tokenizer, made)
    shards.write_manifest(folder, manifest)
    return manifest


def folder_hash(folder: Path) -> str:
    """Return one hash of every file below a folder and its name."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
