"""From documents to a corpus of token shards: reads a mixture of sources, cleans it, removes duplicates, tokenizes.

Writes train/ and, where there are held-out documents, eval/ as llamatrain.data.shards describes them, and report/: what
became of every document, how fast each step was, what was dropped and why, and a data card. Finished work stands in
work/ until the end: after a kill the same command goes on where it was. The result is a function of the documents and
the settings, whatever the number of processes.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import Any

from llamatrain import __version__
from llamatrain.config import to_dict
from llamatrain.data import shards
from llamatrain.errors import UserError
from llamatrain.run import Run, RunConfig
from llamatrain.tokenizer import Tokenizer

from . import report, sources
from .card import Card
from .cleaning import Cleaning
from .examining import Duplicates, Languages
from .personal import Personal
from .steps import PARTS, Corpus
from .work import Work


@dataclass
class CorpusConfig:
    """Settings of the program; configs/corpus.yaml explains the keys."""

    run: RunConfig
    documents: list[str]
    eval_documents: list[str]
    mixture: str | None
    tokenizer: str
    bad_rows: str
    cleaning: Cleaning
    languages: Languages
    personal: Personal
    duplicates: Duplicates
    card: Card
    shard_tokens: int
    chunk_mb: float
    num_workers: int
    keep_work: bool

    def __post_init__(self) -> None:
        """Check values."""
        if bool(self.documents) == (self.mixture is not None):
            raise UserError(
                f"documents={self.documents}, mixture={self.mixture}: needs a list of files, or a mixture file instead"
            )
        if self.mixture is not None and self.eval_documents:
            raise UserError("eval_documents: a mixture names its held-out files itself (its key eval)")
        if self.bad_rows not in ("stop", "skip"):
            raise UserError(f"bad_rows={self.bad_rows}: needs stop or skip")
        for key, low, high in RANGES:
            node: Any = self
            for name in key.split("."):
                node = getattr(node, name)
            if not low <= node <= high:
                raise UserError(f"{key}={node}: needs {low} or more" + (f", at most {high}" if high < MOST else ""))
        if self.languages.keep and not self.languages.identify:
            raise UserError(f"languages.keep={self.languages.keep}: needs languages.identify=true")


MOST = 1 << 62
RANGES = (
    ("num_workers", 1, MOST),
    ("chunk_mb", 0.001, MOST),
    ("shard_tokens", 1, MOST),
    ("cleaning.repeated_lines", 0, 1),
    ("cleaning.repeated_lines_documents", 1, MOST),
    ("cleaning.min_characters", 0, MOST),
    ("languages.min_probability", 0, 1),
    ("personal.per_1000_words", 0, MOST),
    ("personal.min_documents", 1, MOST),
    ("duplicates.similarity", 0.1, 1),
    ("duplicates.shingle_words", 1, 64),
    ("duplicates.bands", 1, 256),
    ("duplicates.rows", 1, 64),
    ("card.sample", 0, 1),
    ("card.toxicity_sample", 0, 1),
)


def build(cfg: CorpusConfig) -> None:
    """Build the corpus: the steps in their order."""
    tokenizer = Tokenizer(cfg.tokenizer)
    mixture = sources.read_mixture(cfg.mixture) if cfg.mixture else sources.plain(cfg.documents, cfg.eval_documents)
    key = {
        "version": __version__,
        "settings": {
            name: value for name, value in to_dict(cfg).items() if name not in ("run", "num_workers", "keep_work")
        },
        "inputs": sources.stamps(mixture),
        "mixture": [to_dict(source) for source in mixture],
        "tokenizer": tokenizer.fingerprint,
    }
    started = time.monotonic()
    with Run(cfg.run, program="corpus", settings=cfg) as run:
        with Work(run.folder / "work", key, cfg.num_workers, run.progress) as work:
            if work.fresh:  # from here to the end the folder holds no corpus
                for part in PARTS:
                    (run.folder / part / shards.MANIFEST).unlink(missing_ok=True)
            corpus = Corpus(cfg, mixture, tokenizer, work)
            corpus.make()
            manifests = corpus.publish(run.folder)
            for part in PARTS.keys() - manifests.keys():  # of an earlier run with other documents
                shutil.rmtree(run.folder / part, ignore_errors=True)
            found = report.write(run.folder / "report", corpus, manifests, time.monotonic() - started)
        for part, figures in found["parts"].items():
            run.log(0, {f"corpus/{part}_{name}": value for name, value in figures.items()})
        run.print(report.summary(found))
        if not cfg.keep_work:
            shutil.rmtree(run.folder / "work")
