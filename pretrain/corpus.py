"""Program `corpus`: documents to one stream of token ids that training maps into memory.

    train/  eval/      tokens.bin     BOS document EOS BOS document EOS ...   (uint16, or uint32 for large vocabularies)
                       documents.bin  int64: where each document begins, and the end
                       manifest.json  counts, tokenizer, sizes and sha256 of the two files; written last

Documents pass in batches, so memory does not grow with the text.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from llamatrain import config
from llamatrain.data.batches import MANIFEST
from llamatrain.data.rows import count_rows, file_fingerprint, read_rows
from llamatrain.errors import UserError
from llamatrain.progress import Progress
from llamatrain.run import Run, RunConfig
from llamatrain.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 20  # of text in memory at a time


@dataclass
class CorpusConfig:
    """Settings of the program; configs/corpus.yaml explains the keys."""

    run: RunConfig
    documents: list[str]
    eval_documents: list[str]
    tokenizer: str
    num_threads: int

    def __post_init__(self) -> None:
        """Check values."""
        if not self.documents:
            raise UserError("documents=[]: needs one file of documents at least")
        if self.num_threads < 1:
            raise UserError(f"num_threads={self.num_threads}: needs 1 or more")


def build(cfg: CorpusConfig) -> None:
    """Tokenize the training and the held-out documents."""
    tokenizer = Tokenizer(cfg.tokenizer)
    parts = {"train": cfg.documents, "eval": cfg.eval_documents}
    with Run(cfg.run, program="corpus", settings=cfg) as run:
        for part, sources in parts.items():
            if not sources:
                shutil.rmtree(run.folder / part, ignore_errors=True)  # of an earlier run with other documents
                continue
            total = sum(count_rows(source) for source in sources)
            started = time.monotonic()
            with run.progress(total, f"tokenizing {part}", "documents") as progress:
                manifest = write_corpus(run.folder / part, sources, tokenizer, cfg.num_threads, progress)
            figures = {
                "tokens": manifest["tokens"],
                "documents": manifest["documents"],
                "tokens_per_word": manifest["tokens"] / max(manifest["words"], 1),
                "megabytes_per_second": manifest["text_bytes"] / 1e6 / max(time.monotonic() - started, 1e-9),
            }
            run.log(0, {f"corpus/{part}_{name}": value for name, value in figures.items()})
            run.print(
                f"{part}: {figures['tokens']:,} tokens in {figures['documents']:,} documents, "
                f"{figures['tokens_per_word']:.2f} tokens a word, {figures['megabytes_per_second']:.1f} MB/s"
            )


def write_corpus(
    folder: Path, sources: list[str], tokenizer: Tokenizer, num_threads: int = 1, progress: Progress | None = None
) -> dict[str, Any]:
    """Write tokens.bin, documents.bin and manifest.json; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # from here to the end the folder holds no corpus
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    counts = {"tokens": 0, "documents": 0, "words": 0, "text_bytes": 0}
    with (folder / "tokens.bin").open("wb") as tokens_file, (folder / "documents.bin").open("wb") as documents_file:
        tokens, documents = _Hashed(tokens_file), _Hashed(documents_file)
        for texts in _batched(row["text"] for source in sources for row in read_rows(source, "document")):
            encoded = tokenizer.encode_many(texts, num_threads)
            lengths = np.array([len(ids) + 2 for ids in encoded], dtype=np.int64)
            ends = counts["tokens"] + np.cumsum(lengths)
            stream: Iterator[int] = itertools.chain.from_iterable(
                itertools.chain((tokenizer.bos_id,), ids, (tokenizer.eos_id,)) for ids in encoded
            )
            tokens.write(np.fromiter(stream, dtype=dtype, count=int(lengths.sum())))
            documents.write(ends - lengths)
            counts["tokens"] = int(ends[-1])
            counts["documents"] += len(texts)
            counts["words"] += sum(len(text.split()) for text in texts)
            counts["text_bytes"] += sum(len(text.encode()) for text in texts)
            if progress is not None:
                progress.update(len(texts), tokens=counts["tokens"])
        documents.write(np.array([counts["tokens"]], dtype=np.int64))
    manifest = {
        **counts,
        "dtype": dtype.name,
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "tokenizer": tokenizer.fingerprint,
        "sources": {source: file_fingerprint(source) for source in sources},
        "files": {"tokens.bin": tokens.entry(), "documents.bin": documents.entry()},
    }
    temporary = folder / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    temporary.replace(folder / MANIFEST)
    return manifest


class _Hashed:
    """A file being written, its size and its sha256."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.bytes, self.digest = file, 0, hashlib.sha256()

    def write(self, array: NDArray[Any]) -> None:
        content = array.tobytes()
        self.file.write(content)
        self.digest.update(content)
        self.bytes += len(content)

    def entry(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "sha256": self.digest.hexdigest()}


def _batched(texts: Iterable[str]) -> Iterator[list[str]]:
    """Group documents until they hold BATCH_CHARACTERS."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


if __name__ == "__main__":
    config.main("corpus", CorpusConfig, build)
