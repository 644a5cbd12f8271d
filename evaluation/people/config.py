"""Settings of the programs `collect` and `ratings`. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from llamatrain.data.skipped import BAD_ROWS
from llamatrain.description import Program
from llamatrain.errors import UserError
from llamatrain.keys import check_values, least, one_of, reads
from llamatrain.responses.config import VariedSamplingConfig
from llamatrain.settings import PRECISIONS

# A page each: the module of this name, with a class Task, and the template of this name; and how many rate an item (paper
# 3.2.1, A.3.7, 4.4).
TASKS = {"compare": 1, "evaluate": 3, "safety": 3, "red_team": 1}
KINDS = ("helpfulness", "safety")
OUTCOMES = ("majority", "mean", "each")
WEIGHTS = ("identity", "linear", "quadratic", "ordinal")
EXPORTS = ("potato", "argilla")
NAME = re.compile(r"(?!\.+$)[\w .@+-]{1,40}")  # of a rater; also a folder of an export's


@dataclass
class CollectConfig:
    """What people rate; configs/collect.yaml says what each key means."""

    task: str = field(metadata=one_of(TASKS))
    comparisons: str | None = field(metadata=reads("comparison", "compare"))
    systems: dict[str, str] | None
    prompts: list[str] = field(metadata=reads("prompt"))
    checkpoint_a: str | None = field(metadata=reads("checkpoint", "sft"))
    checkpoint_b: str | None = field(metadata=reads("checkpoint", "sft"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    sampling: VariedSamplingConfig
    dtype: str = field(metadata=one_of(PRECISIONS))
    out: str
    kind: str | None = field(metadata=one_of(KINDS))
    round: int = field(metadata=least(1))
    raters: list[str]
    raters_per_item: int | None = field(metadata=least(1))
    gold: str | None = field(metadata=reads("preference"))
    gold_every: int = field(metadata=least(1))
    guidelines: str | None
    export: str | None = field(metadata=one_of(EXPORTS))
    host: str
    port: int = field(metadata=least(0, 65535))
    seed: int
    bad_rows: str = field(metadata=one_of(BAD_ROWS))

    def __post_init__(self) -> None:
        """Check values; a run folder of `compare` stands for its file."""
        check_values(self)
        if not self.out.endswith(".jsonl"):
            raise UserError(f"out={self.out}: need a file's name that ends in .jsonl")
        self._check_sources()
        if self.checkpoint_b is not None and self.checkpoint_a is None:
            raise UserError(f"checkpoint_b={self.checkpoint_b}: need checkpoint_a, too")
        if self.comparisons is not None and Path(self.comparisons).is_dir():
            self.comparisons = str(Path(self.comparisons) / "comparisons.jsonl")
        for name in self.raters:
            check_name(name)
        if not self.raters or len(set(self.raters)) < len(self.raters):
            raise UserError(f"raters={list(self.raters)}: need one name at least, each once")

    def _check_sources(self) -> None:
        """Refuse a page without what it shows, and an export of what no other tool has."""
        if self.export is not None and self.task != "compare":
            raise UserError(f"export={self.export}: need task=compare, as comparisons alone are exported")
        if self.task == "compare" and self.comparisons is None and self.checkpoint_a is None:
            raise UserError(
                "comparisons=null: need a file of `llamatrain compare`, or checkpoint_a to sample from as people ask"
            )
        count = {"evaluate": 2, "safety": 1}.get(self.task, 0)
        if len(self.responses) < count or len(self.responses) > count == 2:
            need = (
                "two, as systems={sft: runs/demo/sample_sft, ppo: ...}" if count == 2 else "one, as systems={ppo: ...}"
            )
            raise UserError(f"systems={self.systems or 'null'}: need {need} for task={self.task}")
        if self.task == "red_team" and self.checkpoint_a is None:
            raise UserError("checkpoint_a=null: need the chat checkpoint that is attacked, for task=red_team")
        if self.task in ("safety", "red_team") and self.gold is not None:
            raise UserError(f"gold={self.gold}: need none for task={self.task}, as gold items are pairs")

    @property
    def responses(self) -> dict[str, str]:
        """Return name -> file of each system's responses; a run folder of `sample` stands for its file."""
        named = {name: Path(path) for name, path in (self.systems or {}).items()}
        return {name: str(path / "responses.jsonl" if path.is_dir() else path) for name, path in named.items()}

    @property
    def each(self) -> int:
        """Return how many rate an item."""
        return self.raters_per_item or TASKS[self.task]


def check_name(name: str) -> None:
    """Refuse what is no rater's name."""
    if not NAME.fullmatch(name) or name != name.strip():
        raise UserError(f"raters={name}: need names of letters, digits, spaces and . @ + - _, at most 40 of them")


@dataclass
class RatingsConfig:
    """What is made of ratings; configs/ratings.yaml says what each key means."""

    folder: str = field(metadata=reads("file", "collect"))
    outcome: str = field(metadata=one_of(OUTCOMES))
    weights: str = field(metadata=one_of(WEIGHTS))
    attacks: list[str] = field(metadata=reads("file", "collect"))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)


PROGRAMS = {
    "collect": Program(
        "evaluation.people.collect",
        "Preferences",
        "a page in the browser where people rate responses -> preferences, ratings",
        schema=CollectConfig,
    ),
    "ratings": Program(
        "evaluation.people.ratings",
        "Measuring",
        "what people's ratings say: wins, violations, agreement, gamma, with intervals",
        schema=RatingsConfig,
        positional=("folder",),
    ),
}
