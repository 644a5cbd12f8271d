"""Settings of the program `benchmark`. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from llamatrain.description import Headline, Program
from llamatrain.errors import UserError
from llamatrain.keys import KEEPS, SPEED, above, check_values, least, one_of, reads
from llamatrain.settings import PRECISIONS, RunConfig

from .suites import NAMES, Group, read_suite


@dataclass
class BenchmarkConfig:
    """configs/benchmark.yaml says what each key means."""

    run: RunConfig
    checkpoint: str = field(metadata=reads("checkpoint", "pretrain"))
    tokenizer: str | None = field(metadata=reads("tokenizer"))
    suite: str = field(metadata=one_of(NAMES))
    tasks: list[str] | None
    root: str | None = field(metadata=reads("file"))
    max_rows: int | None = field(metadata=least(1))
    chat_template: bool
    run_code: bool
    programs_per_problem: int = field(metadata=least(1))
    code_temperature: float = field(metadata=least(0))
    code_top_p: float = field(metadata=above(0, most=1))
    code_seconds: float = field(metadata=above(0))
    results: str | None = field(metadata=KEEPS)
    micro_batch_size: int = field(metadata=least(1) | SPEED)
    generation_batch_size: int | None = field(metadata=least(1) | SPEED)
    sharded: bool = field(metadata=SPEED)
    dtype: str = field(metadata=one_of(PRECISIONS))

    def __post_init__(self) -> None:
        """Check values."""
        check_values(self)
        if self.programs_per_problem > 1 and self.code_temperature == 0:
            raise UserError(
                f"programs_per_problem={self.programs_per_problem}: need 1 with code_temperature=0, as all greedy programs "
                "for a problem are the same"
            )
        self.groups()

    def groups(self) -> list[Group]:
        """Return the groups that are measured; UserError where `tasks` names something else."""
        return read_suite(self.suite, self.tasks)


GROUPS = {  # of the paper's table: metric -> its name in a line
    "benchmark/mmlu": "MMLU",
    "benchmark/commonsense": "commonsense",
    "benchmark/world_knowledge": "world knowledge",
    "benchmark/reading": "reading",
    "benchmark/math": "math",
    "benchmark/bbh": "BBH",
    "benchmark/agieval": "AGIEval",
    "benchmark/code": "code",
}
PROGRAMS = {
    "benchmark": Program(
        "evaluation.benchmarks",
        "Measuring",
        "academic benchmarks, as the paper groups them, beside its figures",
        parallel=True,
        schema=BenchmarkConfig,
        makes=("benchmark.json",),
        headline=Headline(GROUPS, "benchmarks"),
    )
}
