"""Program `corpus`: documents to one stream of token ids that training maps into memory.

Writes train/ and, where there are held-out documents, eval/ as llamatrain.data.shards describes them. Documents pass in
batches, so memory does not grow with the text.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llamatrain import config
from llamatrain.data import shards
from llamatrain.data.rows import count_rows, read_rows
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
                "tokens": manifest.tokens,
                "documents": manifest.sources[0].documents,
                "tokens_per_word": manifest.tokens / max(manifest.sources[0].words, 1),
                "megabytes_per_second": manifest.text_bytes / 1e6 / max(time.monotonic() - started, 1e-9),
            }
            run.log(0, {f"corpus/{part}_{name}": value for name, value in figures.items()})
            run.print(
                f"{part}: {figures['tokens']:,} tokens in {figures['documents']:,} documents, "
                f"{figures['tokens_per_word']:.2f} tokens a word, {figures['megabytes_per_second']:.1f} MB/s"
            )


def write_corpus(
    folder: Path, sources: list[str], tokenizer: Tokenizer, num_threads: int = 1, progress: Progress | None = None
) -> shards.Manifest:
    """Write a corpus part of one source; returns its manifest."""
    (folder / shards.MANIFEST).unlink(missing_ok=True)  # from here to the end the folder holds no corpus
    counts = {"words": 0, "text_bytes": 0}

    def encoded() -> Iterator[list[int]]:
        for texts in _batched(row["text"] for source in sources for row in read_rows(source, "document")):
            counts["words"] += sum(len(text.split()) for text in texts)
            counts["text_bytes"] += sum(len(text.encode()) for text in texts)
            yield from tokenizer.encode_many(texts, num_threads)
            if progress is not None:
                progress.update(len(texts))

    entry = shards.write_shard(folder / "documents", 0, encoded(), tokenizer)
    source = shards.Source(
        name="documents",
        share=1.0,
        licence="",
        tokens=entry["tokens"],
        documents=entry["documents"],
        shards=1,
        index=shards.write_index(folder / "documents", [entry]),
        **counts,
    )
    manifest = shards.Manifest(
        dtype=shards.token_dtype(tokenizer.vocab_size).name,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        tokenizer=tokenizer.fingerprint,
        sources=[source],
    )
    shards.write_manifest(folder, manifest)
    return manifest


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
