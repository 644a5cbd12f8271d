"""Settings of the programs `corpus`, `corpus.verify` and `corpus.contamination`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llamatrain.data.skipped import check_bad_rows
from llamatrain.errors import UserError
from llamatrain.keys import KEEPS, MEASURES, SPEED, reads
from llamatrain.settings import RunConfig

GRAM = 10  # tokens at a span's beginning that must agree
MOST = 1 << 62


@dataclass
class Cleaning:
    """What is cleaned; configs/corpus.yaml explains the keys."""

    unicode: bool
    control_characters: bool
    boilerplate: bool
    repeated_lines: float
    repeated_lines_documents: int
    min_characters: int


@dataclass
class Languages:
    """Which languages are told and kept; configs/corpus.yaml explains the keys."""

    identify: bool
    keep: list[str]
    min_probability: float


@dataclass
class Duplicates:
    """What counts as a duplicate; configs/corpus.yaml explains the keys."""

    exact: bool
    near: bool
    held_out: bool
    similarity: float
    shingle_words: int
    bands: int
    rows: int


@dataclass
class Personal:
    """When a site is dropped; configs/corpus.yaml explains the keys."""

    drop_sites: bool
    per_1000_words: float
    min_documents: int


@dataclass
class Card:
    """What the card samples; configs/corpus.yaml explains the keys."""

    sample: float
    toxicity_classifier: str | None
    toxicity_sample: float


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


@dataclass
class CorpusConfig:
    """Settings of the program; configs/corpus.yaml explains the keys."""

    run: RunConfig
    documents: list[str] = field(metadata=reads("document"))
    eval_documents: list[str] = field(metadata=reads("document"))
    mixture: str | None = field(metadata=reads("file"))
    tokenizer: str = field(metadata=reads("tokenizer"))
    bad_rows: str
    cleaning: Cleaning
    languages: Languages
    personal: Personal
    duplicates: Duplicates
    card: Card = field(metadata=MEASURES)
    shard_tokens: int
    chunk_mb: float = field(metadata=SPEED)
    num_workers: int | None = field(metadata=SPEED)
    keep_work: bool = field(metadata=KEEPS)

    def __post_init__(self) -> None:
        """Check values."""
        if bool(self.documents) == (self.mixture is not None):
            raise UserError(
                f"documents={self.documents}, mixture={self.mixture}: needs a list of files, or a mixture file instead"
            )
        if self.mixture is not None and self.eval_documents:
            raise UserError("eval_documents: a mixture names its held-out files itself (its key eval)")
        check_bad_rows(self.bad_rows)
        for key, low, high in RANGES:
            node: Any = self
            for name in key.split("."):
                node = getattr(node, name)
            if node is not None and not low <= node <= high:
                raise UserError(f"{key}={node}: needs {low} or more" + (f", at most {high}" if high < MOST else ""))
        if self.languages.keep and not self.languages.identify:
            raise UserError(f"languages.keep={self.languages.keep}: needs languages.identify=true")


@dataclass
class VerifyConfig:
    """Settings of the program; configs/corpus_verify.yaml explains the keys."""

    corpus: str = field(metadata=reads("corpus"))


@dataclass
class EvaluationSet:
    """A set of samples: its file, how a row becomes the text that a model would be shown, and a model's scores on it."""

    path: str = field(metadata=reads("file"))
    template: str | None = None
    scores: str | None = field(default=None, metadata=reads("file"))


@dataclass
class ContaminationConfig:
    """Settings of the program; configs/corpus_contamination.yaml explains the keys."""

    run: RunConfig
    corpus: str = field(metadata=reads("corpus"))
    tokenizer: str = field(metadata=reads("tokenizer"))
    sets: dict[str, EvaluationSet]
    lengths: list[int]
    budget: int
    num_workers: int | None = field(metadata=SPEED)

    def __post_init__(self) -> None:
        """Check values."""
        if not self.sets:
            raise UserError("sets={}: needs evaluation sets by name, like {piqa:{path:piqa.jsonl}}")
        if not self.lengths or min(self.lengths) < GRAM:
            raise UserError(f"lengths={self.lengths}: needs lengths of {GRAM} or more")
        if self.budget < 0:
            raise UserError(f"budget={self.budget}: needs 0 or more")
        if self.num_workers is not None and self.num_workers < 1:
            raise UserError(f"num_workers={self.num_workers}: needs 1 or more, or null for all cores")
