"""Settings of sampled and scored responses. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from llamatrain.data.skipped import BAD_ROWS
from llamatrain.errors import UserError
from llamatrain.keys import SPEED, above, check_values, formerly, least, one_of, reads
from llamatrain.settings import PRECISIONS, RunConfig, SamplingConfig

TOO_LONG = ("skip", "stop")
AUTO, CHAT, TEXT = "auto", "chat", "text"
FORMATS = (AUTO, CHAT, TEXT)
BOTH, MODELS = "both", ("both", "helpfulness", "safety")
SAFETY_THRESHOLD = 0.15  # of a sigmoid, below which the safety score takes over (paper 3.2.3)


def logit(probability: float) -> float:
    """Return the score whose sigmoid is `probability`."""
    return math.log(probability / (1 - probability))


def noise_of(program: str, number: int | None) -> str:
    """Return the name of the sampling noise of a program in a round of a pipeline (None: in the first).

    A later round may have the same prompts and, in part, the same models: with the same noise it would get former responses.
    """
    return program if number is None or number == 1 else f"{program}@{number}"


@dataclass
class VariedSamplingConfig:
    """How tokens are drawn where temperatures vary; configs/sampling/varied.yaml says what each key means."""

    temperatures: list[float]
    top_p: float
    max_new_tokens: int

    def __post_init__(self) -> None:
        """Check values."""
        if not self.temperatures:
            raise UserError("sampling.temperatures=[]: need at least one")
        for temperature in self.temperatures:
            self.at(temperature)

    def at(self, temperature: float) -> SamplingConfig:
        """Return how tokens are drawn at one of the temperatures."""
        return SamplingConfig(temperature, self.top_p, self.max_new_tokens)


@dataclass
class GateConfig:
    """The rule of the combined score."""

    models: str = field(metadata=one_of(MODELS) | formerly(BOTH))
    safety_threshold: float = field(metadata=above(0, 1))
    unfinished_logit: float

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self, "gate.")


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
    max_prompts: int | None = field(metadata=least(1))
    samples_per_prompt: int = field(metadata=least(1))
    sampling: SamplingConfig
    too_long: str = field(metadata=one_of(TOO_LONG))
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    gate: GateConfig
    generation_batch_size: int | None = field(metadata=least(1) | SPEED)
    score_batch_size: int = field(metadata=least(1) | SPEED)
    chunk_responses: int = field(metadata=least(1) | SPEED)
    dtype: str = field(metadata=one_of(PRECISIONS))

    def __post_init__(self) -> None:
        """Check values, and that the responses to a prompt may differ."""
        check_values(self)
        if self.samples_per_prompt > 1 and self.sampling.temperature == 0:
            raise UserError(
                f"samples_per_prompt={self.samples_per_prompt}: need 1 with sampling.temperature=0, as all greedy responses "
                "to a prompt are the same"
            )


@dataclass
class AnswersConfig:
    """How a checkpoint answers a program's own prompts (`Answerer`)."""

    tokenizer: str | None = field(metadata=reads("tokenizer"))
    format: str = field(metadata=one_of(FORMATS))
    sampling: SamplingConfig
    generation_batch_size: int | None = field(metadata=least(1) | SPEED)
    chunk_responses: int = field(metadata=least(1) | SPEED)
    dtype: str = field(metadata=one_of(PRECISIONS))
