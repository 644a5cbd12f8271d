"""The program benchmark: on several ranks, sharded, and never twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval")

import evaluation.benchmarks
from evaluation.benchmarks.__main__ import benchmark
from evaluation.benchmarks.config import BenchmarkConfig
from llamatrain.config.compose import compose
from llamatrain.errors import UserError
from llamatrain.model.transformer import Transformer
from llamatrain.tokenizer import Tokenizer
from tests.checkpoints import quiet, read_jsonl, save_checkpoint
from tests.conftest import tiny_config
from tests.distributed.driver import Job, run

from .stories import write
from .test_tasks import CASES

TASKS = ("social_iqa", "commonsense_qa", "boolq", "squad", "gsm8k_cot")


@pytest.fixture
def given(tmp_path: Path, tokenizer: Tokenizer) -> list[str]:
    """Overrides for a tiny model on planted rows, more than the ranks have batches for."""
    save_checkpoint(tmp_path / "model", Transformer(tiny_config(), seed=1), tokenizer)
    for task in TASKS:
        folder, split, rows, other, examples, _ = CASES[task]
        write(tmp_path / "rows" / folder, split, rows * 5)
        if other:
            write(tmp_path / "rows" / folder, other, examples)
    return [
        *("run.progress=false", "run.wandb.mode=disabled", "micro_batch_size=3", "generation_batch_size=2"),
        *(f"checkpoint={tmp_path}/model", f"root={tmp_path}/rows", f"tasks=[{','.join(TASKS)}]"),
    ]


@pytest.mark.slow
@pytest.mark.distributed
def test_all_ranks_count_the_same_and_nothing_is_computed_twice(
    tmp_path: Path, given: list[str], repository: Path
) -> None:
    """One rank, two, and two that hold a half of the model each; then again, by a run of another name."""

    def job(name: str, ranks: int, *more: str) -> Job:
        return Job("benchmark", str(tmp_path / "runs" / name), [*given, *more], ranks)

    jobs = [
        job("one", 1, f"results={tmp_path}/a"),
        job("two", 2, f"results={tmp_path}/b"),
        job("sharded", 2, "sharded=true", f"results={tmp_path}/c"),
        job("again", 1, f"results={tmp_path}/a", "run.progress=true"),
    ]
    (results,) = run([jobs], repository)
    assert [result.codes for result in results] == [[0], [0, 0], [0, 0], [0]], [r.output for r in results]
    found = {job.folder.rpartition("/")[2]: written(Path(job.folder)) for job in jobs}
    one = members(found["one"])
    assert set(one) == set(TASKS) and all(member["rows"] == 10 for member in one.values())
    for name in ("two", "sharded", "again"):
        assert members(found[name]) == one, name
    assert f"{len(TASKS)} of {len(TASKS)} tasks were measured before" in results[3].output
    (metrics,) = read_jsonl(tmp_path / "runs/one/metrics.jsonl")
    assert metrics["benchmark/reading/boolq"] == one["boolq"]["score"]
    assert "benchmark/reading" not in metrics  # QuAC is missing: the mean would not be the paper's group


def written(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "benchmark.json").read_text())
    return content


def members(content: dict[str, Any]) -> dict[str, Any]:
    return {member["name"]: member for group in content["groups"] for member in group["members"]}


def test_what_a_suite_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"tasks: 'gsm8k' is not in suite=llama2: need one of .*; did you mean 'gsm8k_cot'"
    ):
        compose("benchmark", BenchmarkConfig, ["checkpoint=x", "tasks=[gsm8k]", *quiet(tmp_path, "x")])
    more = ["programs_per_problem=2", "code_temperature=0"]
    with pytest.raises(UserError, match="programs_per_problem=2: need 1 with code_temperature=0"):
        compose("benchmark", BenchmarkConfig, ["checkpoint=x", *more, *quiet(tmp_path, "x")])


def test_without_the_harness_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.task", None)
    monkeypatch.delitem(sys.modules, "evaluation.benchmarks.harness", raising=False)
    monkeypatch.delattr(evaluation.benchmarks, "harness", raising=False)
    cfg = compose("benchmark", BenchmarkConfig, ["checkpoint=x", *quiet(tmp_path, "x")])
    with pytest.raises(UserError, match=r'need lm-evaluation-harness: pip install "llamatrain\[benchmark\]"'):
        benchmark(cfg)
