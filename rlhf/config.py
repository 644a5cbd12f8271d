"""Settings of the programs `sample`, `compare`, `rejection_sampling` and `ppo`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.data.skipped import BAD_ROWS
from llamatrain.description import LOSS, LOSSES, Against, BestOf, Chart, Headline, Program, Table, Trials
from llamatrain.errors import UserError
from llamatrain.keys import KEEPS, SPEED, above, check_values, formerly, least, one_of, reads
from llamatrain.responses.config import BOTH, TOO_LONG, LearningGateConfig, ResponsesConfig
from llamatrain.settings import PRECISIONS, OptimConfig, RunConfig, SamplingConfig, ZeroConfig

KIND, BATCH = "kind", "batch"  # over what PPO whitens scores


@dataclass
class SampleConfig(ResponsesConfig):
    """What is sampled and how; configs/sample.yaml says what each key means."""


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
class PPOConfig:
    """PPO's settings; configs/ppo.yaml says what each key means."""

    run: RunConfig
    optim: OptimConfig
    critic_optim: OptimConfig
    zero: ZeroConfig
    checkpoint: str = field(metadata=reads("checkpoint", "sft"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    helpfulness: str = field(metadata=reads("checkpoint", "reward"))
    safety: str = field(metadata=reads("checkpoint", "reward"))
    prompts: list[str] = field(metadata=reads("prompt"))
    max_prompts: int | None = field(metadata=least(1))
    too_long: str = field(metadata=one_of(TOO_LONG))
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    iterations: int = field(metadata=least(1))
    rollout_prompts: int = field(metadata=least(2))  # a score counts by how far it is from the others'
    mini_batch_prompts: int = field(metadata=least(1))
    epochs: int = field(metadata=least(1))
    micro_batch_size: int | None = field(metadata=least(1) | SPEED)
    generation_batch_size: int | None = field(metadata=least(1) | SPEED)
    chunk_responses: int = field(metadata=least(1) | SPEED)
    sampling: SamplingConfig
    kl_coef: float = field(metadata=least(0))
    clip: float = field(metadata=above(0))
    value_clip: float = field(metadata=above(0))
    gamma: float = field(metadata=least(0, 1))
    gae_lambda: float = field(metadata=least(0, 1))
    critic_warmup: int = field(metadata=least(0))
    gate: LearningGateConfig
    whiten: str = field(metadata=one_of((KIND, BATCH)))
    samples_every: int = field(metadata=least(0) | KEEPS)
    samples_kept: int = field(metadata=least(0) | KEEPS)
    activation_checkpointing: str = field(metadata=SPEED)

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        if self.sampling.temperature == 0:
            raise UserError(
                "sampling.temperature=0: need a number above 0, as PPO learns from differences between samples"
            )
        if self.sampling.top_p < 1:
            raise UserError(
                f"sampling.top_p={self.sampling.top_p}: need 1, as PPO's log-probabilities are those of the full distribution, and "
                f"samples from part of it would be another policy's"
            )
        if self.rollout_prompts % self.mini_batch_prompts:
            raise UserError(
                f"rollout_prompts={self.rollout_prompts}: need a multiple of mini_batch_prompts={self.mini_batch_prompts}"
            )

    @property
    def updates_per_iteration(self) -> int:
        """Return the optimizer steps of an iteration."""
        return self.epochs * (self.rollout_prompts // self.mini_batch_prompts)


PPO_CHARTS = (
    Chart("Score", "of the reward models, combined", "mean logit of a batch", {"ppo/score_combined": "combined"}),
    Chart("KL", "distance from the initial policy", "nats per response", {"ppo/kl": "KL"}),
    Chart(
        "Score on the prompts each model governs",
        "of the helpfulness and the safety model",
        "mean logit of a batch",
        {"ppo/helpfulness_harmless": "helpfulness, harmless", "ppo/safety_adversarial": "safety, adversarial"},
    ),
    Chart(
        "Gated",
        "responses below the safety threshold",
        "share",
        {"ppo/gated_harmless": "harmless", "ppo/gated_adversarial": "adversarial"},
    ),
    Chart(
        "Spread of scores",
        "within each kind of prompt, before whitening",
        "standard deviation, logits",
        {"ppo/spread_harmless": "harmless", "ppo/spread_adversarial": "adversarial"},
    ),
    Chart("Finished", "responses that end with EOS", "share", {"ppo/finished": "finished"}),
    Chart("Response length", "", "tokens", {"ppo/response_length": "length"}),
    Chart("Entropy", "of the policy", "nats per token", {"ppo/entropy": "entropy"}),
    Chart(
        "Critic",
        "share of the returns' variance that it explains; values below −1 are drawn at −1",
        "share",
        {"ppo/explained_variance": "explained variance"},
        (-1.0, 1.0),
    ),
    Chart("Clip fraction", "tokens clipped by PPO", "share", {"ppo/clip_fraction": "clip fraction"}),
)
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
    "ppo": Program(
        "rlhf.ppo",
        "Training",
        "PPO against the reward models, kept near the reference by a KL penalty",
        parallel=True,
        plans=True,
        schema=PPOConfig,
        makes=("final", "samples.jsonl"),
        then="chat checkpoint={made}",
        headline=Headline(
            {"ppo/score_combined": "score (logit)", "ppo/kl": "KL", "ppo/response_length": "tokens per response"}
        ),
        model="Reinforcement learning from human feedback (RLHF) by PPO: raises the reward models' score of its answers, with "
        "a penalty for moving away from the initial policy.",
        size="{step} × {rollout_prompts} responses",
        trained_on="{step} iterations of {rollout_prompts} responses",
        chats=True,
        charts=(Against("samples.jsonl", "kl", "KL", "KL from the start, nats per response"), *PPO_CHARTS),
        learns_from=(Table("PPO's batches", "rollout", file="samples.jsonl"),),
    ),
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
}
