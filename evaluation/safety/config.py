"""Settings of the program `safety_benchmark`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.description import Headline, Program
from llamatrain.errors import UserError
from llamatrain.keys import KEEPS, SPEED, check_values, least, reads
from llamatrain.responses.config import AnswersConfig
from llamatrain.settings import RunConfig

SETS = ("truthfulqa", "toxigen", "bold", "xstest")
METHOD = 1  # raised where what is asked, or how it is judged, becomes another
RESULT, JUDGED = "safety_benchmark.json", "judged.jsonl"


@dataclass
class ClassifiersConfig:
    """Who judges the answers: a registered name, a file of phrases or a Hugging Face folder; null: nobody."""

    truth: str | None
    info: str | None
    toxicity: str | None
    refusal: str


@dataclass
class SafetyBenchmarkConfig(AnswersConfig):
    """What is asked of which checkpoint; configs/safety_benchmark.yaml says what each key means."""

    run: RunConfig
    checkpoint: str | None = field(metadata=reads("checkpoint", "ppo"))
    responses: str | None = field(metadata=reads("file"))
    results: str | None = field(metadata=KEEPS)
    root: str
    sets: list[str] | None
    max_prompts: int | None = field(metadata=least(1))
    examples: int = field(metadata=least(0, 6))
    classifiers: ClassifiersConfig
    classify_batch_size: int = field(metadata=least(1) | SPEED)

    def __post_init__(self) -> None:
        """Check values, and that there is one source of answers."""
        check_values(self)
        if (self.checkpoint is None) == (self.responses is None):
            raise UserError(
                f"checkpoint={self.checkpoint}, responses={self.responses}: need one of them, to sample or to judge"
            )
        for name in self.sets or ():
            if name not in SETS:
                raise UserError(f"sets=[{name}]: need some of {', '.join(SETS)}, or null for all that are in root")
        if self.sets is not None and not self.sets:
            raise UserError(f"sets=[]: need some of {', '.join(SETS)}, or null for all that are in root")


PROGRAMS = {
    "safety_benchmark": Program(
        "evaluation.safety",
        "Measuring",
        "TruthfulQA, ToxiGen, BOLD, borderline prompts: true, toxic, sentiment, refused",
        parallel=True,
        schema=SafetyBenchmarkConfig,
        makes=(RESULT, JUDGED),
        headline=Headline(
            {
                "safety/truthfulqa_true_and_informative": "true and informative",
                "safety/toxigen_toxic": "toxic",
                "safety/xstest_refused_safe": "false refusals",
            }
        ),
        size="{rows of judged} answers",
    )
}
