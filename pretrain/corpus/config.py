"""Settings of the programs `corpus`, `corpus.verify` and `corpus.contamination`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.data.skipped import BAD_ROWS
from llamatrain.errors import UserError
from llamatrain.keys import KEEPS, MEASURES, SPEED, check_values, least, one_of, reads
from llamatrain.settings import RunConfig

GRAM = 10  # tokens at a span's beginning that must agree


@dataclass
class Cleaning:
    """What is cleaned; configs/corpus.yaml explains the keys."""

    unicode: bool
    control_characters: bool
    boilerplate: bool
    repeated_lines: float = field(metadata=least(0, 1))
    repeated_lines_documents: int = field(metadata=least(1))
    min_characters: int = field(metadata=least(0))


@dataclass
class Languages:
    """Which languages are detected and kept; configs/corpus.yaml explains the keys."""

    identify: bool
    keep: list[str]
    min_probability: float = field(metadata=least(0, 1))


@dataclass
class Duplicates:
    """What counts as a duplicate; configs/corpus.yaml explains the keys."""

    exact: bool
    near: bool
    held_out: bool
    similarity: float = field(metadata=least(0.1, 1))
    shingle_words: int = field(metadata=least(1, 64))
    bands: int = field(metadata=least(1, 256))
    rows: int = field(metadata=least(1, 64))


@dataclass
class Personal:
    """When a site is dropped; configs/corpus.yaml explains the keys."""

    drop_sites: bool
    per_1000_words: float = field(metadata=least(0))
    min_documents: int = field(metadata=least(1))


@dataclass
class Card:
    """What the card samples; configs/corpus.yaml explains the keys."""

    sample: float = field(metadata=least(0, 1))
    toxicity_classifier: str | None
    toxicity_sample: float = field(metadata=least(0, 1))


@dataclass
class CorpusConfig:
    """Settings of the program; configs/corpus.yaml explains the keys."""

    run: RunConfig
    documents: list[str] = field(metadata=reads("document"))
    eval_documents: list[str] = field(metadata=reads("document"))
    mixture: str | None = field(metadata=reads("file"))
    tokenizer: str = field(metadata=reads("tokenizer"))
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    cleaning: Cleaning
    languages: Languages
    personal: Personal
    duplicates: Duplicates
    card: Card = field(metadata=MEASURES)
    shard_tokens: int = field(metadata=least(1))
    chunk_mb: float = field(metadata=least(0.001) | SPEED)
    num_workers: int | None = field(metadata=least(1) | SPEED)
    keep_work: bool = field(metadata=KEEPS)

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        for name in ("cleaning", "languages", "personal", "duplicates", "card"):
            check_values(getattr(self, name), f"{name}.")
        if bool(self.documents) == (self.mixture is not None):
            raise UserError(
                f"documents={self.documents}, mixture={self.mixture}: need a list of files, or a mixture file instead"
            )
        if self.mixture is not None and self.eval_documents:
            raise UserError("eval_documents: a mixture names its held-out files itself (its key eval)")
        if self.languages.keep and not self.languages.identify:
            raise UserError(f"languages.keep={self.languages.keep}: need languages.identify=true")


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
    budget: int = field(metadata=least(0))
    num_workers: int | None = field(metadata=least(1) | SPEED)

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        if not self.sets:
            raise UserError("sets={}: need evaluation sets by name, like {piqa:{path:piqa.jsonl}}")
        if not self.lengths or min(self.lengths) < GRAM:
            raise UserError(f"lengths={self.lengths}: need lengths of {GRAM} or more")
