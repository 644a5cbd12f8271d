"""The same command started twice at once: one run ends as if it had been alone, the other leaves with 2 and one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.tokenizer import Tokenizer

from .driver import Job, run
from .test_kill import same_end
from .worlds import make_programs

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PLANS = [("sft", 2), ("rejection_sampling", 1), ("ppo", 1)]

World = tuple[dict[str, list[str]], Path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, repository: Path) -> World:
    """Every program's overrides, and the folder of its undisturbed runs."""
    folder = tmp_path_factory.mktemp("twice")
    programs = make_programs(folder, tokenizer)
    alone = [[Job(program, str(folder / "alone" / program), programs[program], ranks)] for program, ranks in PLANS]
    for (result,) in run(alone, repository):
        assert not any(result.codes), result.output
    return programs, folder / "alone"


@pytest.mark.parametrize(("program", "ranks"), PLANS)
def test_started_twice(program: str, ranks: int, world: World, tmp_path: Path, repository: Path) -> None:
    programs, alone = world
    job = Job(program, str(tmp_path / program), programs[program], ranks)
    results = [result for (result,) in run([[job], [job]], repository)]
    first, second = sorted(results, key=lambda result: result.codes)
    assert (first.codes, second.codes) == ([0] * ranks, [2] * ranks), (first.output, second.output)
    assert second.output.startswith("error: another process (pid ") and second.output.count("\n") == 1, second.output
    assert f"is running in {tmp_path / program}: wait for it, or choose another run.name" in second.output
    same_end(tmp_path / program, alone / program)
