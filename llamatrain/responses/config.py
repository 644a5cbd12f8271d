"""Settings of sampled and scored responses. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.data.skipped import check_bad_rows
from llamatrain.errors import UserError
from llamatrain.keys import SPEED, reads
from llamatrain.settings import PRECISIONS, RunConfig, Sampling

TOO_LONG = ("skip", "stop")


def check_counts(settings: object, *keys: str) -> None:
    """Refuse a number below 1; None is left to the memory."""
    for key in keys:
        value = getattr(settings, key)
        if value is not None and value < 1:
            raise UserError(f"{key}={value}: need 1 or more")


@dataclass
class GateConfig:
    """The rule of the combined score."""

    safety_threshold: float
    unfinished_logit: float

    def __post_init__(self) -> None:
        """Check values."""
        if not 0 < self.safety_threshold < 1:
            raise UserError(f"gate.safety_threshold={self.safety_threshold}: need a number between 0 and 1")


@dataclass
class LearningGateConfig(GateConfig):
    """The rule where it is learned from."""

    require_centred: bool


@dataclass
class ResponsesConfig:
    """From which checkpoint how many responses are sampled to which prompts, and by which reward models they are scored."""

    run: RunConfig
    checkpoint: str = field(metadata=reads("checkpoint", "sft"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    helpfulness: str | None = field(metadata=reads("checkpoint", "reward"))
    safety: str | None = field(metadata=reads("checkpoint", "reward"))
    prompts: list[str] = field(metadata=reads("prompt"))
    limit: int | None
    samples_per_prompt: int
    temperature: float
    top_p: float
    max_new_tokens: int
    too_long: str
    bad_rows: str
    gate: GateConfig
    batch_size: int | None = field(metadata=SPEED)
    score_batch_size: int = field(metadata=SPEED)
    chunk_responses: int = field(metadata=SPEED)
    dtype: str

    def __post_init__(self) -> None:
        """Check values."""
        check_bad_rows(self.bad_rows)
        self.sampling = Sampling(self.temperature, self.top_p, self.max_new_tokens, self.run.seed)
        check_counts(self, "samples_per_prompt", "batch_size", "score_batch_size", "chunk_responses")
        if self.dtype not in PRECISIONS:
            raise UserError(f"dtype={self.dtype}: need one of {', '.join(PRECISIONS)}")
