"""Settings of the programs `reward` and `reward.evaluate`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.data.skipped import check_bad_rows
from llamatrain.description import LOSSES, Headline, Program, Table
from llamatrain.errors import UserError
from llamatrain.keys import MEASURES, SPEED, reads
from llamatrain.settings import PRECISIONS, OptimConfig, RunConfig, ZeroConfig

MARGINS = {  # in the order of RATINGS; paper A.3.3, table 27; an unrated pair has margin 0
    "none": (0.0, 0.0, 0.0, 0.0),
    "small": (1.0, 2 / 3, 1 / 3, 0.0),
    "large": (3.0, 2.0, 1.0, 0.0),
}


KINDS = {"helpfulness": ("small", 0.0, 0.5), "safety": ("none", 1.0, 0.1)}  # margin, auxiliary weight, mix_share


@dataclass
class RewardConfig:
    """What a reward model is trained on, and how; configs/reward.yaml says what each key means."""

    run: RunConfig
    optim: OptimConfig
    zero: ZeroConfig
    kind: str
    checkpoint: str = field(metadata=reads("checkpoint", "sft"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    train: list[str] = field(metadata=reads("preference"))
    eval: list[str] = field(metadata=reads("preference") | MEASURES)
    mix: list[str] = field(metadata=reads("preference"))
    mix_share: float | None
    margin: str | None
    auxiliary_weight: float | None
    center_weight: float | None
    epochs: float
    batch_pairs: int
    micro_batch_size: int | None = field(metadata=SPEED)
    max_length: int | None
    too_long: str
    bad_rows: str
    activation_checkpointing: str = field(metadata=SPEED)

    def __post_init__(self) -> None:
        """Fill in what follows from `kind` and check values."""
        check_bad_rows(self.bad_rows)
        if self.kind not in KINDS:
            raise UserError(f"kind={self.kind}: need one of {', '.join(KINDS)}")
        margin, auxiliary, share = KINDS[self.kind]
        self.margin = margin if self.margin is None else self.margin
        self.auxiliary_weight = auxiliary if self.auxiliary_weight is None else self.auxiliary_weight
        if self.mix_share is None:
            self.mix_share = share if self.mix else 0.0
        if not 0 <= self.mix_share < 1:
            raise UserError(f"mix_share={self.mix_share}: need a number in [0, 1)")
        if self.mix_share > 0 and not self.mix:
            raise UserError(f"mix_share={self.mix_share} needs files in mix")
        if self.margin not in MARGINS:
            raise UserError(f"margin={self.margin}: need one of {', '.join(MARGINS)}")
        if self.auxiliary_weight < 0:
            raise UserError(f"auxiliary_weight={self.auxiliary_weight}: need 0 or more")
        if self.center_weight is not None and self.center_weight < 0:
            raise UserError(f"center_weight={self.center_weight}: need 0 or more, or null")
        if self.epochs <= 0:
            raise UserError(f"epochs={self.epochs}: need a positive number")
        if not self.train:
            raise UserError("train=[]: need at least one preferences file")


@dataclass
class RewardEvaluateConfig:
    """What is measured; configs/reward_evaluate.yaml says what each key means."""

    run: RunConfig
    checkpoint: str | None = field(metadata=reads("checkpoint", "reward"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    preferences: list[str] = field(metadata=reads("preference"))
    pool: list[str] = field(metadata=reads("file", "reward.evaluate"))
    micro_batch_size: int = field(metadata=SPEED)
    max_length: int | None
    too_long: str
    bad_rows: str
    dtype: str

    def __post_init__(self) -> None:
        """Check that there is one thing to do."""
        check_bad_rows(self.bad_rows)
        if bool(self.checkpoint) == bool(self.pool):
            raise UserError("reward.evaluate needs either checkpoint and preferences, or pool (one of the two)")
        if self.checkpoint and not self.preferences:
            raise UserError("preferences=[]: need at least one preferences file")
        if self.dtype not in PRECISIONS:
            raise UserError(f"dtype={self.dtype}: need one of {', '.join(PRECISIONS)}")
        if self.micro_batch_size < 1:
            raise UserError(f"micro_batch_size={self.micro_batch_size}: need 1 or more")


PROGRAMS = {
    "reward": Program(
        "reward",
        "Training",
        "a helpfulness or safety reward model from preferences",
        parallel=True,
        schema=RewardConfig,
        makes=("final",),
        headline=Headline({"eval/accuracy": "held-out accuracy", **LOSSES}),
        curve=True,
        learns_from=(Table("Preferences", "preference", key="train"),),
    ),
    "reward.evaluate": Program(
        "reward.evaluate",
        "Measuring",
        "a reward model's accuracy by rating",
        schema=RewardEvaluateConfig,
        makes=("", "accuracy.json", "scores.jsonl"),
        headline=Headline({"accuracy": "accuracy"}),
    ),
}
