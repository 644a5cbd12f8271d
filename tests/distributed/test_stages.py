"""Real programs on two ranks end as on one, at every ZeRO stage, held-out data included."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import read_jsonl

from .driver import Job, Result, run
from .worlds import PROGRAMS, STEPS, make_programs

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

TWO_RANKS = [
    *((program, stage) for program in ("pretrain", "sft") for stage in (1, 2, 3)),
    *((program, 3) for program in ("reward", "rejection_sampling", "ppo")),  # reference and reward models too
]
LOSSES = ("loss", "perplexity", "accuracy", "score", "kl", "kept")


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, repository: Path
) -> dict[tuple[str, int], tuple[Path, Result]]:
    """Every program on one rank without ZeRO (stage 0), and those of TWO_RANKS; (run folder, result)."""
    folder = tmp_path_factory.mktemp("stages")
    programs = make_programs(folder, tokenizer)
    names = [*((program, 0) for program in PROGRAMS), *TWO_RANKS]
    jobs = [
        Job(program, str(folder / f"{program}{stage}"), [*programs[program], f"zero=stage{stage}"], 2 if stage else 1)
        for program, stage in names
    ]
    results = run([[job] for job in jobs], repository)
    return {name: (Path(job.folder), r[0]) for name, job, r in zip(names, jobs, results, strict=True)}


@pytest.mark.parametrize(("program", "stage"), TWO_RANKS)
def test_two_ranks_end_as_one(program: str, stage: int, runs: dict[tuple[str, int], tuple[Path, Result]]) -> None:
    (alone, one), (shared, two) = runs[program, 0], runs[program, stage]
    assert one.codes == [0], one.output
    assert two.codes == [0, 0], two.output
    rows = list(zip(read_jsonl(alone / "metrics.jsonl"), read_jsonl(shared / "metrics.jsonl"), strict=True))
    assert len(rows) == STEPS
    for a, b in rows:
        assert a.keys() == b.keys()
        for key in a:
            if any(name in key for name in LOSSES):
                assert a[key] == pytest.approx(b[key], rel=1e-5, abs=1e-5), (a["step"], key)
    if program in ("pretrain", "sft", "reward"):
        assert [a["step"] for a, _ in rows if "eval/loss" in a] == [3, 6]
