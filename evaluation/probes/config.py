"""Settings of the program `probe`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.description import Headline, Program
from llamatrain.errors import UserError
from llamatrain.keys import KEEPS, check_values, least, one_of, reads
from llamatrain.responses.config import AnswersConfig
from llamatrain.settings import RunConfig

TEMPORAL, TOOLS, TEMPERATURE = "temporal", "tools", "temperature"
KINDS = (TEMPORAL, TOOLS, TEMPERATURE)
GROUPS = {TEMPORAL: "temporal", TOOLS: "tools", TEMPERATURE: "diversity"}  # kind -> its settings
METHOD = 1  # raised where what is asked, or how it is measured, becomes another
RESULT, ANSWERS = "probe.json", "answers.jsonl"


@dataclass
class TemporalConfig:
    """How a model is told the date."""

    system: str

    def __post_init__(self) -> None:
        """Check that the date is told."""
        if "{date}" not in self.system:
            raise UserError(f"temporal.system={self.system!r}: need {{date}} in it, where the date goes")


@dataclass
class ToolsConfig:
    """How a model is told of tools, and how often it may call them."""

    system: str
    max_calls: int = field(metadata=least(1))


@dataclass
class DiversityConfig:
    """At which temperatures how many answers are compared."""

    temperatures: list[float]
    samples_per_prompt: int = field(metadata=least(2))

    def __post_init__(self) -> None:
        """Check values."""
        for temperature in self.temperatures:
            if temperature <= 0:
                raise UserError(f"diversity.temperatures=[{temperature:g}]: need numbers above 0")
        if not self.temperatures:
            raise UserError("diversity.temperatures=[]: need at least one")


@dataclass
class ProbeConfig(AnswersConfig):
    """What is probed in which checkpoint; configs/probe.yaml says what each key means."""

    run: RunConfig
    kind: str = field(metadata=one_of(KINDS))
    checkpoint: str = field(metadata=reads("checkpoint", "ppo"))
    probes: list[str] = field(metadata=reads("file", "toyworld.sets"))
    max_probes: int | None = field(metadata=least(1))
    results: str | None = field(metadata=KEEPS)
    temporal: TemporalConfig
    tools: ToolsConfig
    diversity: DiversityConfig

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        check_values(self.tools, "tools.")
        check_values(self.diversity, "diversity.")
        if not self.probes and self.kind != TEMPERATURE:
            raise UserError(f"probes=[]: need a file of {self.kind} probes (docs/evaluation.md)")


PROGRAMS = {
    "probe": Program(
        "evaluation.probes",
        "Measuring",
        "a sense of time, use of tools, diversity over temperatures",
        parallel=True,
        schema=ProbeConfig,
        makes=(RESULT, ANSWERS),
        headline=Headline(
            {
                "probe/temporal_respected": "dates respected",
                "probe/tools_right": "right with tools",
                "probe/tools_right_without": "right without",
                "probe/self_bleu_factual": "Self-BLEU of factual prompts",
                "probe/self_bleu_creative": "of creative ones",
            }
        ),
        size="{rows of answers} answers",
    )
}
