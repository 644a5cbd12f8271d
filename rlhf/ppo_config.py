"""Settings of the program `ppo`, and what it is (paper 3.2.3). Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from llamatrain.data.skipped import BAD_ROWS
from llamatrain.description import Against, Chart, Headline, Program, Table
from llamatrain.errors import UserError
from llamatrain.footprint import ModelCounts
from llamatrain.keys import KEEPS, MEASURES, SPEED, above, check_values, formerly, least, one_of, reads
from llamatrain.responses.config import TOO_LONG, LearningGateConfig
from llamatrain.settings import OptimConfig, RunConfig, SamplingConfig, ZeroConfig

KIND, BATCH = "kind", "batch"  # over what PPO whitens scores
HELPFULNESS, POLICY = "helpfulness", "policy"  # what the critic starts from
SAMPLER = "sampler"  # whose log-probabilities the ratio is to; or POLICY
REWARD, LOSS = "reward", "loss"  # where the KL penalty stands
K1, K2, K3 = "k1", "k2", "k3"  # estimators of the KL divergence
MODELS = ModelCounts(
    learning=2, scalars=1, reading=3, scorers=2
)  # policy and critic; the reference and two reward models
LARGEST = 10  # of so many prompts one is held out (hold_out), at most
STOP, ROLLBACK = "stop", "rollback"  # what becomes of a run that a guard flags


@dataclass
class KLConfig:
    """The KL penalty beside its coefficient; configs/ppo.yaml says what each key means."""

    place: str = field(metadata=one_of((REWARD, LOSS)) | formerly(REWARD))
    estimator: str = field(metadata=one_of((K1, K2, K3)) | formerly(K1))
    target: float | None = field(metadata=above(0) | formerly(None))
    horizon: int = field(metadata=least(1) | formerly(10000))

    def __post_init__(self) -> None:
        """Check values, and that the penalty is one."""
        check_values(self, "kl.")
        if self.place == LOSS and self.estimator == K1:
            raise UserError(
                "kl.place=loss kl.estimator=k1: need k2 or k3, as the gradient of k1 has an expectation of 0: no penalty"
            )


@dataclass
class GuardsConfig:
    """Beyond which values a run goes wrong, and what becomes of it; configs/guards/default.yaml says what each key means."""

    action: str = field(metadata=one_of((STOP, ROLLBACK)))
    max_rollbacks: int = field(metadata=least(0))
    rollback_lr: float = field(metadata=above(0, most=1))
    kl_per_token: float | None = field(metadata=above(0))
    entropy_fraction: float | None = field(metadata=above(0, 1))
    length_growth: float | None = field(metadata=above(1))
    unfinished_rise: float | None = field(metadata=above(0, most=1))
    ratio: float | None = field(metadata=above(0))
    value_loss: float | None = field(metadata=above(0))
    sampler_mismatch: float | None = field(metadata=above(0))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self, "guards.")


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
    prompts_eval: list[str] = field(metadata=reads("prompt") | MEASURES | formerly([]))
    max_prompts_eval: int | None = field(metadata=least(1) | MEASURES | formerly(None))
    hold_out: int = field(metadata=least(0) | formerly(0))  # so many are not learned from: it can change the result
    eval_helpfulness: str | None = field(metadata=reads("checkpoint", "reward") | MEASURES | formerly(None))
    eval_safety: str | None = field(metadata=reads("checkpoint", "reward") | MEASURES | formerly(None))
    eval_temperature: float = field(metadata=least(0) | MEASURES | formerly(0.0))
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
    kl: KLConfig
    old_logprobs: str = field(metadata=one_of((POLICY, SAMPLER)) | formerly(POLICY))
    clip: float = field(metadata=above(0))
    value_clip: float = field(metadata=above(0))
    gamma: float = field(metadata=least(0, 1))
    gae_lambda: float = field(metadata=least(0, 1))
    critic: str = field(metadata=one_of((HELPFULNESS, POLICY)) | formerly(HELPFULNESS))
    critic_warmup: int = field(metadata=least(0))
    replay: str | None = field(metadata=reads("corpus") | formerly(None))
    replay_sequences: int = field(metadata=least(1) | formerly(8))
    replay_coef: float = field(metadata=above(0) | formerly(1.0))
    guards: GuardsConfig = field(metadata=KEEPS)  # a run that none of them flags is the same whatever they say
    gate: LearningGateConfig
    whiten: str = field(metadata=one_of((KIND, BATCH)))
    samples_every: int = field(metadata=least(0) | KEEPS)
    samples_kept: int = field(metadata=least(0) | KEEPS)
    experience_kept: int = field(metadata=least(0) | KEEPS)
    experience_every: int = field(metadata=least(0) | KEEPS)
    activation_checkpointing: str = field(metadata=SPEED)

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        self.run.need_held_out(self.holds_out, "held-out prompts to stop early by (prompts_eval or hold_out)")
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
        if self.kl.target is not None and self.kl_coef == 0:
            raise UserError("kl_coef=0: need a number above 0, as kl.target adapts it by factors")

    @property
    def holds_out(self) -> bool:
        """Tell whether held-out prompts are answered while it learns."""
        return bool(self.prompts_eval or self.hold_out)

    @property
    def scored_apart_by(self) -> dict[str, str]:
        """Return key -> checkpoint of the reward models that score held-out answers alone."""
        models = {"eval_helpfulness": self.eval_helpfulness, "eval_safety": self.eval_safety} if self.holds_out else {}
        return {key: path for key, path in models.items() if path is not None}

    @property
    def models(self) -> ModelCounts:
        """Return how many models a rank holds: those that score held-out answers alone, too."""
        apart = len(self.scored_apart_by)
        return replace(MODELS, reading=MODELS.reading + apart, scorers=MODELS.scorers + apart)

    @property
    def updates_per_iteration(self) -> int:
        """Return the optimizer steps of an iteration."""
        return self.epochs * (self.rollout_prompts // self.mini_batch_prompts)


PPO_CHARTS = (
    Chart(
        "Score",
        "of the reward models, combined; it moves with the share of adversarial prompts in a batch",
        "mean logit of a batch",
        {"ppo/score_combined": "combined"},
    ),
    Chart(
        "Helpfulness score",
        "on harmless prompts",
        "mean logit of a batch",
        {"ppo/helpfulness_harmless": "helpfulness, harmless"},
    ),
    Chart(
        "Safety score",
        "on adversarial prompts",
        "mean logit of a batch",
        {"ppo/safety_adversarial": "safety, adversarial"},
    ),
    Chart("KL", "distance from the initial policy", "nats per response", {"ppo/kl": "KL"}),
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
    Chart(
        "Held-out prompts",
        "scored by the same reward models, or by those of eval_helpfulness and eval_safety",
        "mean logit",
        {
            "eval/score_combined": "combined",
            "eval/helpfulness_harmless": "helpfulness, harmless",
            "eval/safety_adversarial": "safety, adversarial",
        },
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
PPO = Program(
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
    charts=(
        Against(
            "samples.jsonl",
            "kl",
            "KL",
            "KL from the start, nats per response",
            held_out="eval/score_combined",
            over="ppo/kl",
        ),
        *PPO_CHARTS,
    ),
    learns_from=(Table("PPO's batches", "rollout", file="samples.jsonl"),),
    experience=True,
)
