"""Settings of the programs `toyworld`, `rate` and `judge`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.data.kinds import RATINGS
from llamatrain.data.skipped import BAD_ROWS
from llamatrain.description import Headline, Program
from llamatrain.errors import UserError
from llamatrain.keys import SHARE, above, check_values, formerly, least, one_of, reads
from llamatrain.settings import RunConfig

from .answers import QUALITIES, SAFETY_QUALITIES
from .dialogues import check_shares

CONSTRAINTS_FILE = "constraints.json"


@dataclass
class ToyworldConfig:
    """Sizes and mixtures; configs/toyworld.yaml explains the keys."""

    run: RunConfig
    seed: int
    documents_mb: float = field(metadata=above(0))
    documents_eval_mb: float = field(metadata=above(0))
    dialogues: int = field(metadata=above(0))
    dialogues_eval: int = field(metadata=above(0))
    prompts: int = field(metadata=above(0))
    prompts_eval: int = field(metadata=above(0))
    prompts_borderline: int = field(metadata=above(0) | formerly(210))
    adversarial_fraction: float
    dialogues_adversarial_fraction: float
    borderline_fraction: float
    guided_fraction: float = field(metadata=least(0, 1) | formerly(0.0))
    qualities: dict[str, float]
    safety_qualities: dict[str, float]
    turns: int = field(metadata=least(0) | formerly(0))
    turns_eval: int = field(metadata=least(1) | formerly(100))
    instructed: int = field(metadata=least(1) | formerly(3000))

    def __post_init__(self) -> None:
        check_values(self)
        for key in ("adversarial_fraction", "dialogues_adversarial_fraction"):
            total = getattr(self, key) + self.borderline_fraction
            if not (getattr(self, key) >= 0 and self.borderline_fraction >= 0 and total <= 1):
                other = f"borderline_fraction={self.borderline_fraction}"
                raise UserError(f"{key}={getattr(self, key)}, {other}: need shares that add up to at most 1")
        check_shares("qualities", self.qualities, QUALITIES)
        check_shares("safety_qualities", self.safety_qualities, SAFETY_QUALITIES)


@dataclass
class RateConfig:
    """configs/rate.yaml explains the keys."""

    run: RunConfig
    world: str = field(metadata=reads("world"))
    comparisons: list[str] = field(metadata=reads("comparison", "compare"))
    bad_rows: str = field(metadata=one_of(BAD_ROWS))
    seed: int
    annotators: int = field(metadata=least(1))
    noise: float = field(metadata=least(0))
    length_bias: float = field(metadata=least(0))
    label_noise: float = field(metadata=SHARE)
    thresholds: dict[str, float]
    harmless_fraction: float = field(metadata=SHARE)
    eval_fraction: float = field(metadata=SHARE)

    def __post_init__(self) -> None:
        """Check values and their order."""
        check_values(self)
        values = [self.thresholds.get(name, -1.0) for name in RATINGS[:-1]]
        if len(self.thresholds) != 3 or not values[0] > values[1] > values[2] >= 0:
            raise UserError(f"thresholds={dict(self.thresholds)}: need falling gaps for {', '.join(RATINGS[:-1])}")


@dataclass
class JudgeConfig:
    """configs/judge.yaml explains the keys."""

    run: RunConfig
    world: str = field(metadata=reads("world"))
    responses: str = field(metadata=reads("response", "sample"))
    bad_rows: str = field(metadata=one_of(BAD_ROWS) | formerly("stop"))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)


@dataclass
class SetsConfig:
    """configs/toyworld_sets.yaml explains the keys."""

    run: RunConfig
    world: str = field(metadata=reads("world"))
    rows: int = field(metadata=least(1))
    dialogues: int = field(metadata=least(1))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)


ASKED = ("truthfulqa", "toxigen", "bold", "xstest", "temporal", "tools", "temperature")
SETS = ("documents", "dialogues", "prompts")
KINDS = ("helpfulness", "safety")
PROGRAMS = {
    "toyworld": Program(
        "toyworld",
        "Data",
        "a small simulated world: documents, dialogues, prompts",
        schema=ToyworldConfig,
        makes=(
            "",
            *(f"{name}{end}.jsonl" for name in (*SETS, "turns") for end in ("", "_eval")),
            *("prompts_borderline.jsonl", "instructed.jsonl"),
            CONSTRAINTS_FILE,
        ),
        headline=Headline({"toyworld/documents": "documents", "toyworld/dialogues": "dialogues"}, counts=True),
        size="{toyworld/documents} documents, {toyworld/dialogues} dialogues, {toyworld/prompts} prompts",
    ),
    "toyworld.sets": Program(
        "toyworld.sets",
        "Data",
        "the toy world's questions for safety_benchmark and probe",
        schema=SetsConfig,
        makes=("", *(f"{name}.jsonl" for name in (*ASKED, "dialogues_temporal", "dialogues_tools")), "toxic.txt"),
        headline=Headline({"sets/truthfulqa": "questions for facts", "sets/tools": "for tools"}, counts=True),
        size="{sets/truthfulqa} questions for facts",
    ),
    "rate": Program(
        "toyworld.rate",
        "Preferences",
        "simulated annotators: comparisons -> preferences",
        schema=RateConfig,
        makes=tuple(f"preferences_{kind}{end}.jsonl" for kind in KINDS for end in ("", "_eval")),
        headline=Headline({f"rate/preferences_{kind}": kind for kind in KINDS}, whose="preferences: ", counts=True),
        size=f"{' + '.join(f'{{rate/preferences_{kind}}}' for kind in KINDS)} preferences",
    ),
    "judge": Program(
        "toyworld.judge",
        "Measuring",
        "the toy world's gold judgement of responses",
        schema=JudgeConfig,
        makes=("judgements.jsonl",),
        headline=Headline(
            {"judge/helpfulness": "helpful", "judge/safety": "safe"},  # of all prompts, as `evaluate` has them
            whose="gold judge: ",
        ),
        size="{rows of judgements} judgements",
        judgements="judgements.jsonl",
    ),
}
