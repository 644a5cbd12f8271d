"""Program `tokenizer`: train a SentencePiece BPE tokenizer with Llama 2's settings (paper 2.2) on documents.

Writes tokenizer.model, and what Hugging Face tools need beside it, into the run folder. The same documents and settings
give the same file; the number of threads, which it records, does not change the pieces.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from llamatrain import atomic, hf_tokenizer
from llamatrain.config.program import main
from llamatrain.data.kinds import DocumentRow
from llamatrain.data.rows import count_rows, read_rows
from llamatrain.data.skipped import BadRows
from llamatrain.errors import UserError
from llamatrain.inputs import fingerprints
from llamatrain.progress import Progress
from llamatrain.run import Run
from llamatrain.tokenizer import MODEL_FILE, Tokenizer

from .config import PROGRAMS, TokenizerConfig, TrainerConfig


def train(cfg: TokenizerConfig) -> None:
    """Train the tokenizer and print how it splits the documents."""
    if not cfg.documents:
        raise UserError("documents=[]: need at least one file of documents")
    then = PROGRAMS["tokenizer"].then
    with Run(cfg.run, "tokenizer", cfg, dashboard=False, inputs=fingerprints(cfg), then=then) as run:
        total, bad = sum(count_rows(source) for source in cfg.documents), BadRows(cfg.bad_rows)
        with run.progress(total, "reading documents", "documents") as progress:
            texts = _read(cfg.documents, progress, bad)
            model = train_model(texts, cfg.vocab_size, cfg.trainer, cfg.num_threads)
        bad.say(run.print)
        path = run.folder / MODEL_FILE
        atomic.write_bytes(path, model)
        tokenizer = Tokenizer(path)
        hf_tokenizer.save(tokenizer, run.folder)
        hf_tokenizer.announce(tokenizer, run.print)
        run.log(0, {"tokenizer/vocab_size": tokenizer.vocab_size})
        run.print(f"{path}: {tokenizer.vocab_size} pieces, sha256 {tokenizer.fingerprint[:12]}")


def train_model(texts: Iterable[str], vocab_size: int, trainer: TrainerConfig, num_threads: int = 1) -> bytes:
    """Return a tokenizer.model trained on `texts`. Raises UserError where the settings do not suit them."""
    model, failed = io.BytesIO(), list[BaseException]()

    def lines() -> Iterator[str]:
        try:
            for text in texts:
                for line in text.splitlines():  # SentencePiece's unit is a line: no piece may cross one
                    yield from _cut(line, trainer.max_sentence_length)
        except BaseException as error:  # SentencePiece makes a RuntimeError of it, which is none of our business
            failed.append(error)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=model,
            vocab_size=vocab_size,
            num_threads=num_threads,
            minloglevel=2,
            **vars(trainer),
        )
    except RuntimeError as error:
        raise (failed[0] if failed else _explained(error, vocab_size)) from error
    return model.getvalue()


def _read(sources: Iterable[str], progress: Progress, bad: BadRows) -> Iterator[str]:
    for source in sources:
        for row in read_rows(source, DocumentRow, bad):
            yield row["text"]
            progress.update()


def _cut(line: str, limit: int) -> Iterator[str]:
    """Split a line at spaces into parts of `limit` bytes at most: SentencePiece silently drops longer ones."""
    if len(line) * 4 <= limit or len(line.encode()) <= limit:  # a character has four bytes at most
        yield line
        return
    part: list[str] = []
    size = 0
    for word in line.split(" "):
        length = len(word.encode()) + 1
        if part and size + length > limit:
            yield " ".join(part)
            part, size = [], 0
        part.append(word)
        size += length
    yield " ".join(part)


def _explained(error: RuntimeError, vocab_size: int) -> UserError:
    """Turn what SentencePiece refuses into the user's words."""
    text = str(error)
    if found := re.search(r"value <= (\d+)", text):
        return UserError(
            f"vocab_size={vocab_size}: the documents have too little text for so many pieces, need at most {found[1]}"
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", text):
        return UserError(
            f"vocab_size={vocab_size}: bytes and single characters alone take {found[1]} pieces, need more"
        )
    return UserError(f"SentencePiece refuses vocab_size={vocab_size}, trainer.* or the documents: {text}")


if __name__ == "__main__":
    main("tokenizer", TokenizerConfig, train)
