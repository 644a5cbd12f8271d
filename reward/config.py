"""Settings of the programs `reward` and `reward.evaluate`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.data.kinds import RATINGS
from llamatrain.data.skipped import BAD_ROWS
from llamatrain.description import LOSS, LOSSES, Beside, Cases, Headline, Listed, Program, Reliability, Shares, Table
from llamatrain.errors import UserError
from llamatrain.keys import MEASURES, SHARE, SPEED, above, check_values, formerly, least, one_of, reads
from llamatrain.settings import PRECISIONS, OptimConfig, RunConfig, ZeroConfig

MARGINS = {  # in the order of RATINGS; paper A.3.3, table 27; an unrated pair has margin 0
    "none": (0.0, 0.0, 0.0, 0.0),
    "small": (1.0, 2 / 3, 1 / 3, 0.0),
    "large": (3.0, 2.0, 1.0, 0.0),
}


TOO_LONG = ("skip", "stop")
KINDS = {"helpfulness": ("small", 0.0, 0.5), "safety": ("none", 1.0, 0.1)}  # margin, auxiliary weight, mix_share


@dataclass
class RewardConfig:
    """What a reward model is trained on, and how; configs/reward.yaml says what each key means."""

    run: RunConfig
    optim: OptimConfig
    zero: ZeroConfig
    kind: str = field(metadata=one_of(KINDS))
    checkpoint: str = field(metadata=reads("checkpoint", "sft"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    train: list[str] = field(metadata=reads("preference", "rate"))
    eval: list[str] = field(metadata=reads("preference", "rate") | MEASURES)
    mix: list[str] = field(metadata=reads("preference", "rate"))
    mix_share: float | None = field(metadata=SHARE)
    off_topic: float = field(metadata=least(0, 1) | formerly(0.0))
    margin: str | None = field(metadata=one_of(MARGINS))
    auxiliary_weight: float | None = field(metadata=least(0))
    center_weight: float | None = field(metadata=least(0))
    epochs: float = field(metadata=above(0))
    batch_pairs: int = field(metadata=least(1))
    micro_batch_size: int | None = field(metadata=least(1) | SPEED)
    max_length: int | None
    too_long: str = field(metadata=one_of(TOO_LONG))
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    activation_checkpointing: str = field(metadata=SPEED)

    def __post_init__(self) -> None:
        """Fill in what follows from `kind` and check values."""
        check_values(self)
        margin, auxiliary, share = KINDS[self.kind]
        self.margin = margin if self.margin is None else self.margin
        self.auxiliary_weight = auxiliary if self.auxiliary_weight is None else self.auxiliary_weight
        if self.mix_share is None:
            self.mix_share = share if self.mix else 0.0
        if self.mix_share > 0 and not self.mix:
            raise UserError(f"mix_share={self.mix_share}: need files in mix")
        if not self.train:
            raise UserError("train=[]: need at least one preferences file")
        self.run.need_held_out(bool(self.eval), "held-out preferences to stop early by (eval)")


@dataclass
class RewardEvaluateConfig:
    """What is measured; configs/reward_evaluate.yaml says what each key means."""

    run: RunConfig
    checkpoint: str | None = field(metadata=reads("checkpoint", "reward"))
    other: str | None = field(metadata=reads("checkpoint", "reward") | formerly(None))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    preferences: list[str] = field(metadata=reads("preference", "rate"))
    pool: list[str] = field(metadata=reads("file", "reward.evaluate"))
    micro_batch_size: int = field(metadata=least(1) | SPEED)
    max_length: int | None
    too_long: str = field(metadata=one_of(TOO_LONG))
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    dtype: str = field(metadata=one_of(PRECISIONS))

    def __post_init__(self) -> None:
        """Check that there is one thing to do."""
        check_values(self)
        if bool(self.checkpoint) == bool(self.pool):
            raise UserError("reward.evaluate: need either checkpoint and preferences, or pool")
        if self.checkpoint and not self.preferences:
            raise UserError("preferences=[]: need at least one preferences file")
        if self.other and not self.checkpoint:
            raise UserError(f"other={self.other}: need checkpoint, the model that it stands beside")


_FILE = "accuracy.json"
_RATED = {rating: rating.replace("_", " ") for rating in (*RATINGS, "unrated")}
CARD = (
    Shares(
        _FILE,
        {
            "by_rating": _RATED,
            "by_bin": {
                "safe_unsafe": "safe against unsafe",
                "both_safe": "both safe",
                "both_unsafe": "both unsafe",
            },
            "by_length": {
                "matched": "equally long",
                "chosen_longer": "chosen is longer",
                "chosen_shorter": "chosen is shorter",
            },
            "rulers": {
                "longer": "longer wins",
                "shorter": "shorter wins",
                "refusal": "refusing wins",
                "random": "random",
            },
        },
        of="checkpoint",
        pools="pool",
    ),
    Beside(_FILE, {"all": "All", **{rating: words.capitalize() for rating, words in _RATED.items()}}),
    Reliability(_FILE, "calibration", {"pairs": "the better scored one is chosen", "safe": "a response is safe"}),
    Listed(_FILE, "figures", "what else its scores tell"),
    Cases(_FILE, {"compared.cases": "ordered differently by the two models", "mistakes": "the surest mistakes"}),
)
PROGRAMS = {
    "reward": Program(
        "reward",
        "Training",
        "a helpfulness or safety reward model from preferences",
        parallel=True,
        plans=True,
        schema=RewardConfig,
        makes=("final",),
        then="reward.evaluate run.name=accuracy checkpoint={made} preferences=my_held_out_preferences.jsonl",
        headline=Headline({"eval/accuracy": "held-out accuracy", **LOSSES}),
        size="{reward/own_pairs} pairs",
        charts=(LOSS,),
        learns_from=(Table("Preferences", "preference", key="train"),),
    ),
    "reward.evaluate": Program(
        "reward.evaluate",
        "Measuring",
        "a reward model's card: accuracy by rating, rules beside it, calibration",
        parallel=True,
        schema=RewardEvaluateConfig,
        makes=("", "accuracy.json", "scores.jsonl"),
        headline=Headline({"accuracy": "accuracy"}),
        size="{rows of scores} pairs",
        charts=CARD,
    ),
}
