"""What the programs `sample`, `compare`, `rejection_sampling` and `ppo` are, and their settings (of `ppo`: ppo_config.py).

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.data.skipped import BAD_ROWS
from llamatrain.description import LOSS, LOSSES, BestOf, Headline, Program, Table, Trials
from llamatrain.errors import UserError
from llamatrain.keys import SPEED, check_values, formerly, least, one_of, reads
from llamatrain.responses.config import BOTH, TOO_LONG, LearningGateConfig, ResponsesConfig, VariedSamplingConfig
from llamatrain.settings import PRECISIONS, OptimConfig, RunConfig, ZeroConfig

from .ppo_config import PPO


@dataclass
class SampleConfig(ResponsesConfig):
    """What is sampled and how; configs/sample.yaml says what each key means."""


@dataclass
class CompareConfig:
    """What is compared; configs/compare.yaml says what each key means."""

    run: RunConfig
    checkpoint_a: str = field(metadata=reads("checkpoint", "sft"))
    checkpoint_b: str | None = field(metadata=reads("checkpoint", "sft"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    prompts: list[str] = field(metadata=reads("prompt"))
    max_prompts: int | None = field(metadata=least(1))
    pairs_per_prompt: int = field(metadata=least(1))
    round: int | None = field(metadata=least(1))
    sampling: VariedSamplingConfig
    too_long: str = field(metadata=one_of(TOO_LONG))
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    generation_batch_size: int | None = field(metadata=least(1) | SPEED)
    chunk_pairs: int = field(metadata=least(1) | SPEED)
    dtype: str = field(metadata=one_of(PRECISIONS))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        if self.checkpoint_b is None and self.sampling.temperatures == [0]:
            raise UserError("sampling.temperatures=[0]: two greedy responses of one checkpoint are the same")


@dataclass
class RejectionSamplingConfig(ResponsesConfig):
    """How the best samples are found and trained on; configs/rejection_sampling.yaml says what each key means."""

    gate: LearningGateConfig
    optim: OptimConfig
    zero: ZeroConfig
    try_temperatures: list[float] = field(metadata=formerly([]))
    trial_prompts: int = field(metadata=least(1) | formerly(100))
    base: str = field(metadata=reads("checkpoint", "pretrain"))
    sft_train: list[str] = field(metadata=reads("dialogue"))
    sft_fraction: float | None = field(metadata=least(0, 0.99))  # null: the whole SFT set once
    round: int | None = field(metadata=least(1))
    earlier: list[str] = field(metadata=reads("dialogue"))
    steps: int = field(metadata=least(1))
    batch_sequences: int = field(metadata=least(1))
    micro_batch_size: int | None = field(metadata=least(1) | SPEED)
    max_length: int | None
    replay: str | None = field(metadata=reads("corpus"))
    replay_fraction: float
    activation_checkpointing: str = field(metadata=SPEED)

    def __post_init__(self) -> None:
        """Check values."""
        super().__post_init__()
        for kind in ("helpfulness", "safety"):
            if getattr(self, kind) is None and self.gate.models in (BOTH, kind):
                other = "safety" if kind == "helpfulness" else "helpfulness"
                hint = f", or gate.models={other}" if self.gate.models == BOTH else ""
                raise UserError(f"{kind}=null: need the reward models that gate.models={self.gate.models} names{hint}")
        for temperature in self.try_temperatures:
            if temperature <= 0:
                raise UserError(f"try_temperatures=[{temperature:g}]: need numbers above 0")
        if self.sft_fraction and not self.sft_train:
            raise UserError(f"sft_fraction={self.sft_fraction}: need dialogues in sft_train")
        self.run.need_held_out(False, "null, as rejection_sampling measures no held-out data while it trains")


@dataclass
class ExperienceConfig:
    """Which iteration is derived again; configs/experience.yaml says what each key means."""

    folder: str
    step: int = field(metadata=least(0))
    tolerance: float = field(metadata=least(0))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)


PROGRAMS = {
    "rejection_sampling": Program(
        "rlhf.rejection_sampling",
        "Training",
        "best of K samples by reward, then fine-tuning on them",
        parallel=True,
        plans=True,
        schema=RejectionSamplingConfig,
        makes=("final", "responses.jsonl", "best.jsonl"),
        then="ppo run.name=ppo checkpoint={made} helpfulness=runs/helpfulness/final safety=runs/safety/final "
        "prompts=my_prompts.jsonl",
        headline=Headline(LOSSES, best_of="rs/best_of_"),
        model="Rejection sampling (RS): samples several answers to each prompt and is fine-tuned on the ones that two reward "
        "models, trained on preferences, score best.",
        size="best {rs/kept} of {rs/responses}",
        trained_on="the best {rs/kept} of {rs/responses} responses",
        chats=True,
        charts=(LOSS, BestOf("responses.jsonl"), Trials("temperatures.jsonl")),
        learns_from=(Table("The best of K", "best", file="best.jsonl"),),
    ),
    "ppo": PPO,
    "compare": Program(
        "rlhf.compare",
        "Preferences",
        "two sampled responses per prompt, to be rated",
        parallel=True,
        schema=CompareConfig,
        makes=("comparisons.jsonl",),
        headline=Headline({"compare/pairs": "pairs", "compare/equal": "dropped as equal"}, counts=True),
        size="{compare/pairs} pairs",
    ),
    "sample": Program(
        "rlhf.sample",
        "Measuring",
        "responses to prompts, scored by reward models",
        parallel=True,
        schema=SampleConfig,
        makes=("responses.jsonl",),
        headline=Headline({"sample/responses": "responses", "sample/finished": "finished"}),
        size="{sample/responses} responses",
        answers="responses.jsonl",
    ),
    "experience": Program(
        "rlhf.derivation",
        "Measuring",
        "an iteration of PPO derived again from the checkpoint before it and what was stored: does every figure come out?",
        parallel=True,
        schema=ExperienceConfig,
    ),
}
