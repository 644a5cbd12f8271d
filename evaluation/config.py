"""Settings of the program `evaluate`, and which programs this folder and its packages have. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.data.skipped import BAD_ROWS
from llamatrain.description import Course, Headline, Measure, Measures, Program
from llamatrain.errors import UserError
from llamatrain.keys import SPEED, check_values, formerly, least, one_of, reads
from llamatrain.settings import PRECISIONS, RunConfig

from .benchmarks import config as benchmarks
from .card import config as card
from .people import config as people
from .probes import config as probes
from .safety import config as safety


@dataclass
class ModelSource:
    """What there is of one model; any part may be absent."""

    checkpoint: str | None = field(default=None, metadata=reads("checkpoint"))
    responses: str | None = field(default=None, metadata=reads("response", "sample"))
    judgements: str | None = field(default=None, metadata=reads("judgement", "judge"))
    recall: str | None = field(default=None, metadata=reads("file", "recall"))


@dataclass
class EvaluateConfig:
    """What is measured; configs/evaluate.yaml says what each key means."""

    run: RunConfig
    models: dict[str, ModelSource]
    bad_rows: str = field(metadata=one_of(BAD_ROWS) | formerly("stop"))
    baseline: str | None
    tie: float = field(metadata=least(0))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    corpus: str | None = field(metadata=reads("corpus"))
    corpus_sequences: int | None = field(metadata=least(1))
    isolate_documents: bool
    micro_batch_size: int = field(metadata=least(1) | SPEED)
    dtype: str = field(metadata=one_of(PRECISIONS))

    def __post_init__(self) -> None:
        """Check that there is something to measure."""
        check_values(self)
        names = list(self.models)
        if not names:
            raise UserError(
                "models={}: need at least one, as models={sft: {checkpoint: ..., responses: ..., judgements: ...}}"
            )
        for name, source in self.models.items():
            if not (source.responses or source.judgements or source.recall or (source.checkpoint and self.corpus)):
                raise UserError(f"models.{name}: need responses, judgements, recall, or a checkpoint and corpus")
        if self.baseline is not None and self.baseline not in names:
            raise UserError(f"baseline={self.baseline}: need one of {', '.join(names)}")
        if self.corpus and not any(source.checkpoint for source in self.models.values()):
            raise UserError(f"corpus={self.corpus}: need a checkpoint in one of the models to measure on it")


RECALLED = (2, 4, 6, 20)  # turns at which the paper asks what is recalled of an instruction (table 30)
GOLD, SCORES = "by the gold judge", "by the reward models"
MEASURES = Measures(
    "evaluation.json",
    {
        "helpfulness": Measure("Helpfulness", GOLD, bounds=(0, 1)),
        "safety": Measure("Safety", GOLD, bounds=(0, 1)),
        "score_helpfulness": Measure("Helpfulness score", SCORES, 2),
        "score_safety": Measure("Safety score", SCORES, 2),
        "score_combined": Measure("Combined score", SCORES, 2),
        "perplexity": Measure("Perplexity"),
        "bits_per_byte": Measure("Bits per byte"),
        "loss": Measure("Loss"),
        "spearman_helpfulness": Measure("Score and judge (Spearman)"),
        "spearman_safety": Measure("Score and judge (Spearman)"),
        "refused": Measure("Over-refusals"),
        "declined": Measure("Refusals by wording"),
        "gated": Measure("Scored unsafe"),
        "finished": Measure("Finished"),
        "length": Measure("Words per response", digits=1),
    },
    by={
        GOLD: "The gold judge knows the truth of the toy world: its scores are what counts, and nothing is trained on them.",
        SCORES: "The reward models' scores are logits. With folds they are those of models that nothing was tuned by; without, "
        "the training signal's own view: what tuning raised, whether or not it is better. These models saw only what "
        "fine-tuned models answer, so a pretrained model is not scored.",
    },
    of_kind={
        "harmless": (
            "helpfulness",
            "score_helpfulness",
            "spearman_helpfulness",
            "refused",
            "declined",
            "gated",
            "finished",
        ),
        "adversarial": ("safety", "helpfulness", "score_safety", "spearman_safety", "declined", "gated", "finished"),
    },
    courses=(
        Course(
            "recall_turn_",
            "How long an instruction is kept to",
            "Of what an instruction in the first turn asks for, the share that answers at later turns keep to, over dialogues that reach them.",
            "turn",
            "share kept to",
        ),
    ),
)
# Each in a package of its own.
PARTS = benchmarks.PROGRAMS | card.PROGRAMS | people.PROGRAMS | safety.PROGRAMS | probes.PROGRAMS
PROGRAMS = PARTS | {
    "evaluate": Program(
        "evaluation",
        "Measuring",
        "perplexity, scores and win rates with intervals",
        schema=EvaluateConfig,
        makes=("evaluation.json",),
        headline=Headline(
            of_last={
                "gold judge": {"helpfulness": "helpful", "safety": "safe"},
                "reward models": {"score_helpfulness": "helpful (logit)", "score_safety": "safe (logit)"},
                "held-out text": {"perplexity": "perplexity", "bits_per_byte": "bits per byte"},
            }
        ),
        measures=MEASURES,
    ),
}
