"""How a program is fitted to somebody's data and machine (`llamatrain new`): FITS in its folder's plan.py, name -> function.

Such a function takes the sizes that all programs share (Sizes) and returns what is the program's own (Fitted). Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

BESIDE = 8.0  # seconds of a stage that loads torch beside its work: its start, reading, evaluating, saving
PAIRS_TO_RATE = 200  # of people, a round


@dataclass(frozen=True)
class Value:
    """An override, and why it is so."""

    override: str
    why: str


@dataclass(frozen=True)
class Fitted:
    """What a preset says of a program, and how long a stage of it takes, about."""

    values: list[Value]
    seconds: float  # of its own work
    seconds_of_kind: Mapping[str, float] = field(default_factory=dict)  # instead, where it has a `kind`
    start: float = BESIDE


@dataclass(frozen=True)
class Sizes:
    """Sizes of data, machine and model."""

    seconds: float  # that the stages have for their work
    gpus: bool
    cores: int
    ranks: int
    text: float  # bytes of documents
    corpus: float  # tokens of them
    vocabulary: int
    shape: str | None  # of the model: its choice in configs/model/; None: it starts from one that is there
    parameters: int
    context: int
    tokens: float  # of pretraining
    rate: float  # peak, of pretraining
    dialogues: float  # rows of the context's length that they are packed into
    epochs: float  # of fine-tuning
    batch_sequences: int  # of fine-tuning
    pairs: Mapping[str, int]  # kind -> preferences
    pairs_held_out: Mapping[str, int]
    folds: int
    prompts: int
    prompts_held_out: int
    pair_tokens: float  # of a prompt with its response, on average
    answer: int  # tokens of a response, at most
    written: float  # seconds of writing a response
    learned: float  # seconds of a token that is learned from

    def batch(self, most: float, limit: int, of: int = 1) -> int:
        """Return a global batch: a power of two up to `most` and `limit`, and a multiple of the ranks (times `of`)."""
        return max(self.ranks * of, min(limit, power(most)))


Fit = Callable[[Sizes], Fitted]


def power(most: float) -> int:
    """Return the largest power of two up to `most`, at least 1."""
    return int(2 ** int(most).bit_length() // 2) if most >= 1 else 1


def size_of(size: float) -> str:
    """Write bytes of text for people."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def rhythm(steps: int) -> list[Value]:
    """Return how often a run saves, measures and speaks."""
    return [
        Value(f"run.save_every={max(1, steps // 3)}", "steps: the most an interruption can lose"),
        Value(f"run.eval_every={max(1, steps // 4)}", "steps between held-out losses"),
        Value(f"run.log_every={max(1, steps // 10)}", "steps between lines in a log"),
    ]


def sampling(size: Sizes, prompts: int, why: str) -> list[Value]:
    """Return how many prompts are answered, and how long an answer may be."""
    return [
        Value(f"max_prompts={prompts}", why),
        Value(f"sampling.max_new_tokens={size.answer}", "nine of ten written answers are shorter"),
    ]
